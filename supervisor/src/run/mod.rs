mod cause;
mod fleet;
