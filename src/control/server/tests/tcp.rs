//! What listens for other machines: nobody without the token is answered, and TLS is TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::control::server::connections::{Limits, Running, start_within};
use crate::control::server::{Listeners, Served};
use crate::control::tcp::{Identity, Listener, TcpError, TcpOptions};
use crate::control::{Client, ControlPlace, Remote, Session, SessionError, StorePlace};

const TOKEN: &str = "a-token-of-some-length";

/// A server at an address of the loopback interface.
struct Server {
    world: World,
    running: Option<Running>,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

/// A file that nobody else may read.
fn secret(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn identity(dir: &Path) -> Identity {
    let cert = dir.join("cert.pem");
    fs::write(&cert, include_bytes!("../../../../tests/tls/cert.pem")).unwrap();
    let key = include_bytes!("../../../../tests/tls/key.pem");
    Identity {
        cert,
        key: secret(dir, "key.pem", key),
    }
}

fn options(dir: &Path, tls: bool) -> TcpOptions {
    fs::write(
        dir.join("ca.pem"),
        include_bytes!("../../../../tests/tls/ca.pem"),
    )
    .unwrap();
    TcpOptions {
        address: "127.0.0.1:0".parse().unwrap(),
        token_file: secret(dir, "token", TOKEN.as_bytes()),
        identity: tls.then(|| identity(dir)),
    }
}

impl Server {
    fn start(tls: bool, limits: Limits) -> Server {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&options(dir.path(), tls)).unwrap();
        let address = listener.address();
        let listeners = Listeners {
            unix: None,
            tcp: Some(listener),
        };
        let served = Served::new(Arc::clone(&world.store), Arc::clone(&world.exports.0));
        Server {
            world,
            running: Some(start_within(listeners, served, limits).unwrap()),
            address,
            dir,
        }
    }

    fn exchange(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn remote(&self, url: String) -> Remote {
        Remote {
            url,
            token_file: Some(self.dir.path().join("token")),
            ca_file: Some(self.dir.path().join("ca.pem")),
        }
    }

    fn end(mut self) {
        drop(self.running.take());
        assert!(TcpStream::connect(self.address).is_err());
        self.world.finish();
    }
}

fn session(remote: Remote) -> Result<Session, SessionError> {
    let place = StorePlace {
        store: "/none".into(),
        control: ControlPlace::Remote(remote),
        allow_volatile: false,
    };
    Session::begin(&place, false)
}

/// Every path and method: whoever has no token learns nothing, and nothing is done.
#[test]
fn nothing_is_said_or_done_without_the_token() {
    let server = Server::start(false, Limits::default());
    let body = r#"{"name":"new"}"#;
    let ask = |method: &str, path: &str, headers: &str| {
        server.exchange(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let paths = server.world.document["paths"].as_object().unwrap();
    let paths: Vec<&str> = paths
        .keys()
        .map(String::as_str)
        .chain(["/", "/x"])
        .collect();
    for path in paths {
        let path = path.replace(['{', '}'], "");
        for method in ["GET", "POST", "PATCH", "DELETE", "OPTIONS"] {
            for headers in [
                "",
                "Authorization: Bearer \r\n",
                "Authorization: Bearer a-token-of-some-lengtH\r\n",
                "Authorization: Basic a-token-of-some-length\r\n",
            ] {
                let answer = ask(method, &path, headers);
                assert!(
                    answer.starts_with("HTTP/1.1 401 "),
                    "{method} {path}: {answer}"
                );
                assert!(
                    answer
                        .to_lowercase()
                        .contains("\r\nwww-authenticate: bearer\r\n")
                );
                assert!(answer.contains(r#"{"error":"unauthorized","message":"#));
            }
        }
    }
    assert_eq!(server.world.store.list().unwrap().len(), 1);
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = ask("POST", "/api/v1/datasets", &right);
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    server.end();
}

#[test]
fn commands_reach_it_over_tls_and_believe_only_who_was_signed() {
    let server = Server::start(true, Limits::default());
    let port = server.address.port();
    for host in ["localhost", "127.0.0.1"] {
        let remote = server.remote(format!("https://{host}:{port}"));
        let session = session(remote).unwrap();
        assert_eq!(session.datasets().unwrap().len(), 1);
    }
    // Another name than the certificate's, though it is the same address.
    let other = server.remote(format!("https://127.0.0.2:{port}"));
    assert!(session(other).unwrap().datasets().is_err());
    // Another authority: the certificate itself is none.
    let mut other = server.remote(format!("https://localhost:{port}"));
    other.ca_file = Some(server.dir.path().join("cert.pem"));
    let refused = session(other).and_then(|session| session.datasets());
    assert!(refused.unwrap_err().to_string().contains("does not answer"));
    // Another token.
    let mut other = server.remote(format!("https://localhost:{port}"));
    other.token_file = Some(secret(server.dir.path(), "other", b"some-other-long-token"));
    let refused = session(other).unwrap().datasets().unwrap_err();
    let SessionError::Refused(failure) = refused else {
        panic!("{refused}");
    };
    assert_eq!(failure.error, crate::control::api::ErrorKind::Unauthorized);
    // No TLS: no answer that HTTP knows.
    let plain = server.exchange("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!plain.contains("HTTP"), "{plain}");
    server.end();
}

#[test]
fn a_client_does_not_say_the_token_for_all_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = Some(secret(dir.path(), "token", TOKEN.as_bytes()));
    fs::write(
        dir.path().join("ca.pem"),
        include_bytes!("../../../../tests/tls/ca.pem"),
    )
    .unwrap();
    let ca_file = Some(dir.path().join("ca.pem"));
    let of = |url: &str| Remote {
        url: url.into(),
        token_file: token_file.clone(),
        ca_file: ca_file.clone(),
    };
    for good in [
        "http://127.0.0.1:1",
        "http://[::1]:1/",
        "http://localhost:1",
        "https://x:1",
    ] {
        assert!(Client::remote(&of(good)).is_ok(), "{good}");
    }
    for bad in [
        "http://10.0.0.1:1",
        "http://localhost.example:1",
        "https://x",
        "https://x:1/path",
        "https://x:1?query",
        "ftp://x:1",
        "https://",
    ] {
        assert!(Client::remote(&of(bad)).is_err(), "{bad}");
    }
    let without = |remote: Remote| Client::remote(&remote).err().unwrap().to_string();
    let no_token = Remote {
        token_file: None,
        ..of("https://x:1")
    };
    assert!(without(no_token).contains("--control-token-file"));
    let no_ca = Remote {
        ca_file: None,
        ..of("https://x:1")
    };
    assert!(without(no_ca).contains("--control-ca"));
}

#[test]
fn it_does_not_listen_where_others_could_read_along_or_know_the_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let with = |change: &dyn Fn(&mut TcpOptions)| {
        let mut options = options(dir.path(), true);
        change(&mut options);
        Listener::bind(&options)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(with(&|_| ()), None);
    let open = Listener::bind(&TcpOptions {
        address: "0.0.0.0:0".parse().unwrap(),
        ..options(dir.path(), false)
    });
    assert!(matches!(open, Err(TcpError::Plaintext(_))));
    let readable = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    };
    let shown = with(&|options| readable(&options.token_file)).unwrap();
    assert!(shown.contains("not secret"), "{shown}");
    let shown = with(&|options| readable(&options.identity.as_ref().unwrap().key)).unwrap();
    assert!(shown.contains("not secret"), "{shown}");
    // A key of another certificate, and no key at all.
    for content in [
        include_bytes!("../../../../tests/tls/ca.pem").as_slice(),
        b"x",
    ] {
        let wrong = secret(dir.path(), "wrong", content);
        let set = |options: &mut TcpOptions| {
            if let Some(identity) = &mut options.identity {
                identity.key = wrong.clone();
            }
        };
        assert!(with(&set).is_some());
    }
    let set = |options: &mut TcpOptions| {
        if let Some(identity) = &mut options.identity {
            identity.cert = identity.key.clone();
        }
    };
    assert!(with(&set).unwrap().contains("no certificate"));
}

/// Connections that do not say whose they are keep nobody out who has the token: the longest gives way.
#[test]
fn whoever_has_the_token_is_not_kept_out() {
    for tls in [false, true] {
        let server = Server::start(
            tls,
            Limits {
                connections: 3,
                header_time: Duration::from_secs(60),
                ..Limits::default()
            },
        );
        let begin = Instant::now();
        let connect = || {
            let stream = TcpStream::connect(server.address).unwrap();
            let patience = Some(Duration::from_secs(20));
            stream.set_read_timeout(patience).unwrap();
            stream
        };
        // Silent ones, and one whose request has no token and does not come to its end.
        let mut first = connect();
        let mut second = connect();
        if !tls {
            second
                .write_all(b"POST /api/v1/trim HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
                .unwrap();
        }
        let _others: Vec<_> = (0..10).map(|_| connect()).collect();
        let scheme = if tls { "https" } else { "http" };
        let remote = server.remote(format!("{scheme}://localhost:{}", server.address.port()));
        assert_eq!(session(remote).unwrap().datasets().unwrap().len(), 1);
        let mut rest = Vec::new();
        first.read_to_end(&mut rest).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(15));
        server.end();
    }
}

/// Who has shown the token stays, whoever comes.
#[test]
fn whoever_has_shown_the_token_does_not_give_way() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Server::start(false, limits);
    let mut known = TcpStream::connect(server.address).unwrap();
    let body = r#"{"name":"new"}"#;
    let headers = format!(
        "POST /api/v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    known.write_all(headers.as_bytes()).unwrap();
    // It is looked at in the moment in which it comes.
    std::thread::sleep(Duration::from_millis(200));
    let _others = [(); 3].map(|()| TcpStream::connect(server.address).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    known.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    known.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    server.end();
}

#[test]
fn whoever_begins_no_handshake_is_let_go() {
    let server = Server::start(
        true,
        Limits {
            connections: 1,
            header_time: Duration::from_millis(200),
            ..Limits::default()
        },
    );
    let begin = Instant::now();
    let mut silent = TcpStream::connect(server.address).unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(200));
    server.end();
}
