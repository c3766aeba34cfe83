//! The file that records of calls are appended to, in the hands of the one who holds its lock.
//!
//! *Append*: 1. the lines of a batch by one write; 2. `fdatasync`; only then does anybody forget the records. A death before 1, or in it, leaves whole lines and perhaps
//! half a one; after 1, whole lines that may or may not outlive a power cut. *Open* reads what is behind the position that the arena knows of, cuts off half a line
//! and says which records are there. *Put aside* happens between batches only: a rename, and a new file; a death in between leaves none, which is a file that is to be begun.
//!
//! If something fails, what was written of the batch is cut off again, so that the next attempt finds the file as it was; if that fails too, the file is opened
//! anew, and read.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cdr::{Form, Position, Rotation, Tail, rotation};
use failpoint::failpoint;
use tables::cdr::CdrId;

/// Who may read what is made here; the account may make it wider.
pub(super) const MODE: u32 = 0o640;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Bytes that are read of a file of which the arena knows nothing.
const UNKNOWN_BYTES: u64 = 64 << 20;
/// Ids that are remembered from the end of a file, at most.
const IDS_MAX: usize = 4 << 20;
/// Names that are tried for a file that is put aside.
const NAMES_MAX: u32 = 1000;

/// What an operator has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) path: PathBuf,
    pub(super) form: Form,
    pub(super) rotation: Rotation,
}

/// The file, open for lines at its end.
#[derive(Debug)]
pub(super) struct RecordFile {
    setup: Setup,
    file: File,
    bytes: u64,
    /// When something was written to it last; since 1970.
    written: Duration,
    /// What is behind `bytes` is not ours: it is to be opened anew.
    doubtful: bool,
}

/// What was found when the file was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Records behind the position.
    pub(super) ids: HashSet<CdrId>,
    /// Bytes of half a line that were cut off.
    pub(super) torn: u64,
}

impl RecordFile {
    /// Opens it, or begins it. `position`: up to where everything has been dealt with.
    pub(super) fn open(
        setup: &Setup,
        position: Option<Position>,
        now: Duration,
    ) -> io::Result<(Self, Found)> {
        let mut found = Found::default();
        let mut open = Self::at_end(setup)?;
        failpoint!("records.opened");
        let here = open.position()?;
        let known = position.as_ref().filter(|known| is_file(known, &here));
        if let Some(elsewhere) = position.as_ref().filter(|known| !is_file(known, &here)) {
            // Put aside by somebody else before its last batch was dealt with, or of another setup.
            let then = Path::new(OsStr::from_bytes(&elsewhere.path));
            let aside = match find(&setup.path, elsewhere)? {
                Some(aside) => Some(aside),
                // A folder that is gone has no file of ours.
                None => find(then, elsewhere).ok().flatten(),
            };
            if let Some(mut aside) = aside {
                look(&mut aside, elsewhere.offset, true, &mut found)?;
            }
        }
        // What somebody else has made, and an operator has named by mistake, is put aside as it is.
        let is_ours = known.is_some() || open.goes_on()? || open.has_half_a_head()?;
        let begin = match known {
            Some(known) if known.offset <= open.bytes => known.offset,
            // Another file, or one that somebody has cut: all of it may be news.
            Some(_) => 0,
            None => open.bytes.saturating_sub(UNKNOWN_BYTES),
        };
        open.bytes = look(&mut open.file, begin, is_ours, &mut found)?;
        failpoint!("records.repaired");
        if open.bytes > 0 && !open.goes_on()? {
            open.put_aside(now)?;
        }
        open.begin()?;
        Ok((open, found))
    }

    fn at_end(setup: &Setup) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .open(&setup.path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a file"));
        }
        Ok(Self {
            setup: setup.clone(),
            bytes: about.len(),
            written: Duration::from_secs(u64::try_from(about.mtime()).unwrap_or(0)),
            file,
            doubtful: false,
        })
    }

    /// Whether what is in it has the form of what is to come.
    fn goes_on(&mut self) -> io::Result<bool> {
        let first = self.first_bytes()?;
        Ok(self.setup.form.continues(&first))
    }

    /// Whether all that is in it is the beginning of a first line, whose writer died.
    fn has_half_a_head(&mut self) -> io::Result<bool> {
        let first = self.first_bytes()?;
        Ok(self.setup.form.head().as_bytes().starts_with(&first))
    }

    /// As many as the first line has, one at least.
    fn first_bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut first = vec![0; self.setup.form.head().len().max(1)];
        self.file.seek(SeekFrom::Start(0))?;
        let mut read = 0;
        while let Some(room) = first.get_mut(read..).filter(|room| !room.is_empty()) {
            match self.file.read(room)? {
                0 => break,
                bytes => read += bytes,
            }
        }
        first.truncate(read);
        Ok(first)
    }

    /// The first line, if there has to be one and is none.
    fn begin(&mut self) -> io::Result<()> {
        if self.bytes == 0 {
            let head = self.setup.form.head();
            self.file.write_all(head.as_bytes())?;
            self.bytes = head.len() as u64;
        }
        Ok(())
    }

    /// Everything in it up to now.
    pub(super) fn position(&self) -> io::Result<Position> {
        let about = self.file.metadata()?;
        Ok(Position {
            device: about.dev(),
            inode: about.ino(),
            offset: self.bytes,
            path: self.setup.path.as_os_str().as_bytes().to_vec(),
        })
    }

    /// Whether it has to be opened anew: it was moved away or removed, or could not be left as it was.
    pub(super) fn is_lost(&self) -> bool {
        let there = fs::metadata(&self.setup.path);
        let ours = self.file.metadata();
        self.doubtful
            || !there
                .and_then(|there| ours.map(|ours| is_same(&there, &ours)))
                .unwrap_or(false)
    }

    /// Puts it aside if its time has come.
    pub(super) fn rotate(&mut self, now: Duration) -> io::Result<bool> {
        let head = self.setup.form.head().len() as u64;
        let lines = self.bytes.saturating_sub(head);
        let bytes = if lines == 0 { 0 } else { self.bytes };
        if !self.setup.rotation.is_due(bytes, self.written, now) {
            return Ok(false);
        }
        self.put_aside(now)?;
        self.begin()?;
        Ok(true)
    }

    fn put_aside(&mut self, now: Duration) -> io::Result<()> {
        self.file.sync_all()?;
        failpoint!("records.aside.before");
        let path = &self.setup.path;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let free = (0..NAMES_MAX)
            .map(|nth| path.with_file_name(rotation::aside(&name, now, nth)))
            .find(|aside| fs::symlink_metadata(aside).is_err());
        let aside = free.ok_or(ErrorKind::AlreadyExists)?;
        fs::rename(path, aside)?;
        failpoint!("records.aside.renamed");
        if let Some(folder) = folder(path) {
            File::open(folder)?.sync_all()?;
        }
        *self = Self::at_end(&self.setup)?;
        Ok(())
    }

    /// Appends lines; they are on the disk when this returns. On an error none of them is there, or the file [is lost](Self::is_lost).
    pub(super) fn append(&mut self, lines: &str, now: Duration) -> io::Result<()> {
        let appended = self.write(lines.as_bytes());
        if appended.is_ok() {
            self.bytes += lines.len() as u64;
            self.written = now;
        } else {
            self.doubtful = self.file.set_len(self.bytes).is_err();
        }
        appended
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        failpoint!(
            "records.write.before",
            Err(io::Error::from(ErrorKind::StorageFull))
        );
        // For a death in the middle of a line.
        let half = if failpoint::ENABLED {
            lines.len() / 2
        } else {
            0
        };
        let (half, rest) = lines.split_at(half);
        self.file.write_all(half)?;
        failpoint!(
            "records.write.half",
            Err(io::Error::from(ErrorKind::StorageFull))
        );
        self.file.write_all(rest)?;
        failpoint!("records.write.written");
        self.file.sync_data()?;
        failpoint!(
            "records.write.synced",
            Err(io::Error::from(ErrorKind::StorageFull))
        );
        Ok(())
    }
}

/// Reads ids from there to the end and, if it is to be repaired, cuts off half a line; how many bytes are left.
fn look(file: &mut File, from: u64, repair: bool, found: &mut Found) -> io::Result<u64> {
    let mut tail = Tail::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut end = file.seek(SeekFrom::Start(from))?;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        end += read as u64;
        tail.read(buffer.get(..read).unwrap_or_default(), |id| {
            if found.ids.len() < IDS_MAX {
                found.ids.insert(id);
            }
        });
    }
    let torn = tail.torn();
    if torn > 0 && repair {
        found.torn += torn;
        end = end.saturating_sub(torn);
        file.set_len(end)?;
    }
    // What a writer that died had not come to.
    file.sync_data()?;
    Ok(end)
}

/// The file of a position among those beside this path.
fn find(path: &Path, wanted: &Position) -> io::Result<Option<File>> {
    let Some(folder) = folder(path) else {
        return Ok(None);
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_it = |about: &fs::Metadata| {
            (about.dev(), about.ino()) == (wanted.device, wanted.inode) && about.is_file()
        };
        if entry.metadata().as_ref().is_ok_and(is_it) {
            // One that may not be written any more is left as it is.
            let file = OpenOptions::new().read(true).write(true).open(entry.path());
            return Ok(file.ok());
        }
    }
    Ok(None)
}

fn folder(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

pub(super) fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn is_file(a: &Position, b: &Position) -> bool {
    (a.device, a.inode) == (b.device, b.inode)
}

#[cfg(test)]
mod tests {
    use cdr::Format;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_400_100);

    fn setup(dir: &tempfile::TempDir) -> Setup {
        Setup {
            path: dir.path().join("calls.csv"),
            form: Form::new(Format::Csv, &[cdr::Field::Code]),
            rotation: Rotation::default(),
        }
    }

    fn id(n: u8) -> CdrId {
        CdrId {
            dialog: [n; 16],
            fork: 0,
        }
    }

    fn line(n: u8) -> String {
        format!("{},0\n", id(n))
    }

    fn text(setup: &Setup) -> String {
        fs::read_to_string(&setup.path).unwrap()
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn ids(found: &Found) -> Vec<u8> {
        let mut ids: Vec<u8> = found.ids.iter().map(|id| id.dialog[0]).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn lines_come_after_the_head_and_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let (mut file, found) = RecordFile::open(&setup, None, NOW).unwrap();
        assert_eq!(ids(&found), []);
        file.append(&line(1), NOW).unwrap();
        let position = file.position().unwrap();
        file.append(&(line(2) + &line(3)), NOW).unwrap();
        assert_eq!(
            text(&setup),
            format!("id,code\n{}{}{}", line(1), line(2), line(3))
        );
        drop(file);
        let (_, found) = RecordFile::open(&setup, Some(position), NOW).unwrap();
        assert_eq!((ids(&found), found.torn), (vec![2, 3], 0));
        let (_, found) = RecordFile::open(&setup, None, NOW).unwrap();
        assert_eq!(ids(&found), [1, 2, 3]);
    }

    #[test]
    fn somebody_elses_file_is_put_aside_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        for theirs in ["no line of ours", "one\nand a half", "id,code,more\nhalf"] {
            fs::write(&setup.path, theirs).unwrap();
            let (mut file, found) = RecordFile::open(&setup, None, NOW).unwrap();
            assert_eq!((ids(&found), found.torn), (vec![], 0));
            file.append(&line(1), NOW).unwrap();
            assert_eq!(text(&setup), format!("id,code\n{}", line(1)));
            let names = names(&dir);
            let [_, aside] = names.as_slice() else {
                panic!("{names:?}");
            };
            let aside = dir.path().join(aside);
            assert_eq!(fs::read_to_string(&aside).unwrap(), theirs);
            fs::remove_file(aside).unwrap();
        }
    }

    #[test]
    fn half_a_head_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        fs::write(&setup.path, "id,co").unwrap();
        let (_, found) = RecordFile::open(&setup, None, NOW).unwrap();
        assert_eq!((text(&setup).as_str(), found.torn), ("id,code\n", 5));
        assert_eq!(names(&dir).len(), 1);
    }

    #[test]
    fn half_a_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        let position = file.position().unwrap();
        file.append(&line(1), NOW).unwrap();
        let half = &line(2)[..20];
        file.append(half, NOW).unwrap();
        let (mut file, found) = RecordFile::open(&setup, Some(position), NOW).unwrap();
        assert_eq!((ids(&found), found.torn), (vec![1], 20));
        file.append(&line(2), NOW).unwrap();
        assert_eq!(text(&setup), format!("id,code\n{}{}", line(1), line(2)));
        // Of the head too.
        fs::write(&setup.path, "id,co").unwrap();
        let (_, found) = RecordFile::open(&setup, None, NOW).unwrap();
        assert_eq!(found.torn, 5);
        assert_eq!(text(&setup), "id,code\n");
    }

    #[test]
    fn a_full_file_is_put_aside_between_batches() {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = setup(&dir);
        setup.rotation.bytes = Some(60);
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        for n in 1..=5 {
            file.rotate(NOW).unwrap();
            file.append(&line(n), NOW).unwrap();
        }
        assert_eq!(
            names(&dir),
            [
                "calls.csv",
                "calls.csv.20261123T021500Z",
                "calls.csv.20261123T021500Z-1"
            ]
        );
        assert_eq!(text(&setup), format!("id,code\n{}", line(5)));
    }

    #[test]
    fn a_new_day_begins_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = setup(&dir);
        setup.rotation.every = Some(Duration::from_secs(3600));
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        let later = NOW + Duration::from_secs(3600);
        assert!(!file.rotate(later).unwrap(), "nothing in it");
        file.append(&line(1), NOW).unwrap();
        assert!(!file.rotate(NOW).unwrap());
        assert!(file.rotate(later).unwrap());
        assert!(!file.rotate(later).unwrap());
        assert_eq!(text(&setup), "id,code\n");
    }

    #[test]
    fn another_form_begins_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = setup(&dir);
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        file.append(&line(1), NOW).unwrap();
        setup.form = Form::new(Format::Json, &[]);
        let (_, found) = RecordFile::open(&setup, None, NOW).unwrap();
        assert_eq!(ids(&found), [1], "of the old one");
        assert_eq!(names(&dir).len(), 2);
        assert_eq!(text(&setup), "");
    }

    #[test]
    fn a_file_that_was_moved_away_is_noticed_and_its_records_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        file.append(&line(1), NOW).unwrap();
        let position = file.position().unwrap();
        assert!(!file.is_lost());
        // This batch is written, but nobody has dealt with it.
        file.append(&line(2), NOW).unwrap();
        fs::rename(&setup.path, dir.path().join("calls.1")).unwrap();
        assert!(file.is_lost());
        let (file, found) = RecordFile::open(&setup, Some(position), NOW).unwrap();
        assert_eq!(ids(&found), [2]);
        assert!(!file.is_lost());
        assert_eq!(text(&setup), "id,code\n");
        fs::remove_file(&setup.path).unwrap();
        assert!(file.is_lost());
    }

    #[test]
    fn the_file_of_another_setup_is_found() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (setup(&there), setup(&here));
        let (mut file, _) = RecordFile::open(&old, None, NOW).unwrap();
        let position = file.position().unwrap();
        file.append(&line(1), NOW).unwrap();
        let (_, found) = RecordFile::open(&new, Some(position.clone()), NOW).unwrap();
        assert_eq!(ids(&found), [1]);
        drop(there);
        let (_, found) = RecordFile::open(&new, Some(position), NOW).unwrap();
        assert_eq!(ids(&found), []);
    }

    #[test]
    fn a_file_that_was_cut_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(&dir);
        let (mut file, _) = RecordFile::open(&setup, None, NOW).unwrap();
        for n in 1..=3 {
            file.append(&line(n), NOW).unwrap();
        }
        let position = file.position().unwrap();
        fs::write(&setup.path, format!("id,code\n{}", line(9))).unwrap();
        let (_, found) = RecordFile::open(&setup, Some(position), NOW).unwrap();
        assert_eq!(ids(&found), [9]);
    }
}
