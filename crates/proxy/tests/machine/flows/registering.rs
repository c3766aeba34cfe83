//! REGISTER and authentication (RFC 3261 §10, §22).

use expect_test::expect;

use super::{check, check_in};
use crate::world::World;

#[test]
fn register_refresh_query_and_removal() {
    check(
        r#"
        show Contact, Expires, Min-Expires, Path
        bob: REGISTER / Contact: <sip:bob@10.0.0.2>;q=0.5;+sip.instance="<urn:uuid:1>";reg-id=1 / Expires: 600
        +100s
        bob2: REGISTER / Contact: <sip:bob@10.0.0.3>;expires=120
        bob: REGISTER / Contact:
        bob: REGISTER / Contact: <sip:bob@10.0.0.2>;q=0.7 / Expires: 600
        bob: again
        bob: REGISTER / Expires: 10
        +121s
        bob: REGISTER / Contact:
        alice: MESSAGE sip:bob@example.org
        bob: 200
        bob: REGISTER / Contact: <sip:bob@10.0.0.2>;expires=0
        alice: MESSAGE sip:bob@example.org
        bob: REGISTER / Contact: * / Expires: 0
        bob: REGISTER / Contact: * / Expires: 60
        bob: REGISTER / CSeq: 1 REGISTER
        alice: REGISTER sip:elsewhere.example / To: <sip:alice@elsewhere.example>
        alice: REGISTER / To: <sip:alice@elsewhere.example>
        "#,
        expect![[r#"
            show Contact, Expires, Min-Expires, Path
            bob: REGISTER / Contact: <sip:bob@10.0.0.2>;q=0.5;+sip.instance="<urn:uuid:1>";reg-id=1 / Expires: 600
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2>;q=0.5;expires=600;+sip.instance="<urn:uuid:1>";reg-id=1
            +100s
            bob2: REGISTER / Contact: <sip:bob@10.0.0.3>;expires=120
                bob2 < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2>;q=0.5;expires=500;+sip.instance="<urn:uuid:1>";reg-id=1
                    Contact: <sip:bob@10.0.0.3>;expires=120
            bob: REGISTER / Contact:
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2>;q=0.5;expires=500;+sip.instance="<urn:uuid:1>";reg-id=1
                    Contact: <sip:bob@10.0.0.3>;expires=120
            bob: REGISTER / Contact: <sip:bob@10.0.0.2>;q=0.7 / Expires: 600
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.3>;expires=120
                    Contact: <sip:bob@10.0.0.2>;q=0.7;expires=600
            bob: again
                bob < 200 REGISTER again
                    Contact: <sip:bob@10.0.0.3>;expires=120
                    Contact: <sip:bob@10.0.0.2>;q=0.7;expires=600
            bob: REGISTER / Expires: 10
                bob < 423 REGISTER
                    Min-Expires: 60
            +121s
            bob: REGISTER / Contact:
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2>;q=0.7;expires=479
            alice: MESSAGE sip:bob@example.org
                bob < MESSAGE sip:bob@10.0.0.2
                    Contact: <sip:alice@10.0.0.1:5060>
            bob: 200
                alice < 200 MESSAGE
                    Contact: <sip:bob@10.0.0.2:5060>
            bob: REGISTER / Contact: <sip:bob@10.0.0.2>;expires=0
                bob < 200 REGISTER
            alice: MESSAGE sip:bob@example.org
                alice < 480 MESSAGE
            bob: REGISTER / Contact: * / Expires: 0
                bob < 200 REGISTER
            bob: REGISTER / Contact: * / Expires: 60
                bob < 400 REGISTER
            bob: REGISTER / CSeq: 1 REGISTER
                bob < 200 REGISTER
                    Contact: <sip:bob@10.0.0.2:5060>;expires=3600
            alice: REGISTER sip:elsewhere.example / To: <sip:alice@elsewhere.example>
                alice < 403 REGISTER
            alice: REGISTER / To: <sip:alice@elsewhere.example>
                alice < 404 REGISTER
        "#]],
    );
}

#[test]
fn register_has_a_limit() {
    let mut world = World::new(1);
    world.configure(|settings| settings.registrar.bindings_max = 3);
    check_in(
        &mut world,
        "
        bob: REGISTER / Contact: <sip:1@h>, <sip:2@h>, <sip:3@h>
        bob: REGISTER / Contact: <sip:4@h>
        bob: REGISTER / Contact: <sip:3@h>
        bob: REGISTER / Contact: <sip:4@h>, <sip:1@h>;expires=0
        ",
        expect![[r#"
            bob: REGISTER / Contact: <sip:1@h>, <sip:2@h>, <sip:3@h>
                bob < 200 REGISTER
            bob: REGISTER / Contact: <sip:4@h>
                bob < 503 REGISTER
            bob: REGISTER / Contact: <sip:3@h>
                bob < 200 REGISTER
            bob: REGISTER / Contact: <sip:4@h>, <sip:1@h>;expires=0
                bob < 200 REGISTER
        "#]],
    );
}

#[test]
fn digest_register_and_call() {
    check(
        "
        digest
        show WWW-Authenticate, Proxy-Authenticate
        bob: REGISTER
        bob: REGISTER / as bob bob
        bob: REGISTER / as bob wrong
        bob: REGISTER / as alice ecila
        bob: REGISTER / as mallory x
        alice: INVITE sip:bob@example.org
        alice: ACK
        alice: INVITE sip:bob@example.org / as alice ecila
        bob: 486
        alice: ACK
        +400s
        alice: INVITE sip:bob@example.org / as alice ecila
        ",
        expect![[r#"
            digest
            show WWW-Authenticate, Proxy-Authenticate
            bob: REGISTER
                bob < 401 REGISTER
                    WWW-Authenticate: Digest realm="example.org", nonce="*", algorithm=MD5, qop="auth"
            bob: REGISTER / as bob bob
                bob < 200 REGISTER
            bob: REGISTER / as bob wrong
                bob < 401 REGISTER
                    WWW-Authenticate: Digest realm="example.org", nonce="*", algorithm=MD5, qop="auth"
            bob: REGISTER / as alice ecila
                bob < 403 REGISTER
            bob: REGISTER / as mallory x
                bob < 401 REGISTER
                    WWW-Authenticate: Digest realm="example.org", nonce="*", algorithm=MD5, qop="auth"
            alice: INVITE sip:bob@example.org
                alice < 407 INVITE
                    Proxy-Authenticate: Digest realm="example.org", nonce="*", algorithm=MD5, qop="auth"
            alice: ACK
            alice: INVITE sip:bob@example.org / as alice ecila
                bob < INVITE sip:bob@10.0.0.2:5060
                alice < 100 INVITE
            bob: 486
                bob < ACK sip:bob@10.0.0.2:5060
                alice < 486 INVITE
            alice: ACK
            +400s
            alice: INVITE sip:bob@example.org / as alice ecila
                alice < 407 INVITE
                    Proxy-Authenticate: Digest realm="example.org", nonce="*", algorithm=MD5, qop="auth", stale=true
        "#]],
    );
}
