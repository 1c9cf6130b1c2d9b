//! Two processes, each of a version, of which one goes on with what the other exports.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::handover::{Asked, asked_by};
use super::taking::{Taken, take};
use crate::config::{Command, Config};
use crate::export::tests::World;
use crate::export::{Left, NewExport};
use crate::fs::CacheMode;
use crate::transport::vhost_user::{
    Export, Given, Handover, HandoverError, Program, Socket, Standing, VERSION, VERSION_OF_NAMES,
    Wanted, Why,
};

const PROGRAM: Program = Program {
    device: 1,
    inode: 2,
    watchdog_us: None,
    version: VERSION,
};

impl Drop for Old {
    fn drop(&mut self) {
        self.world.exports.end();
        self.world.exports.wait().unwrap();
    }
}

/// The two ends of a connection.
fn pair() -> (Handover, Handover) {
    let (old, new) = UnixStream::pair().unwrap();
    (Handover::new(old).unwrap(), Handover::new(new).unwrap())
}

/// A process that serves a store with the datasets `main`, `web` and `db`, and a directory for sockets.
struct Old {
    world: World,
    /// Where it listens for other machines.
    tcp: Option<TcpListener>,
}

impl Old {
    /// Its configuration names `a`, which is of main.
    fn new() -> Old {
        let old = Old {
            world: World::new(false),
            tcp: None,
        };
        assert!(
            old.world
                .exports
                .reload(&[old.world.new_export("main", "a")])
                .is_empty()
        );
        old
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.dir.path().join(name)
    }

    /// The configuration of a process that is to take over, with flags besides.
    fn config(&self, flags: &[&str]) -> Config {
        let a = format!("--socket-path={}", self.path("a").display());
        let dir = format!("--socket-dir={}", self.world.dir.path().display());
        config(&[&[a.as_str(), &dir], flags].concat())
    }

    /// What the old process does with who asks, to the end: why it goes on, if it does.
    fn hand_over(&self, mut handover: Handover) -> Result<(), HandoverError> {
        let wanted = handover.asked(PROGRAM)?.unwrap();
        let asked: Asked = asked_by(handover, &self.world.exports, wanted)?;
        self.world.exports.freeze();
        let left = self.world.exports.wait().unwrap();
        assert!(left.iter().all(|(why, _)| *why == Why::Frozen));
        let all: Vec<_> = left.into_iter().map(|(_, left)| left).collect();
        let tcp = self.tcp.as_ref().map(AsFd::as_fd);
        asked.give(&all, tcp)?;
        all.into_iter()
            .for_each(|left| left.standing.socket.leave());
        Ok(())
    }

    /// Has another process take over: what it has then, or why not; and what the old one says.
    fn update(
        &self,
        version: u32,
        config: &Config,
        follows: bool,
    ) -> (Result<Taken, HandoverError>, Result<(), HandoverError>) {
        let (old, mut new) = pair();
        std::thread::scope(|scope| {
            let gives = scope.spawn(|| self.hand_over(old));
            let taken = take(&mut new, version, config, follows).and_then(|mut taken| {
                new.begin()?;
                let all = taken.all.iter_mut();
                all.for_each(|left| left.standing.socket.keep());
                Ok(taken)
            });
            (taken, gives.join().unwrap())
        })
    }
}

fn config(flags: &[&str]) -> Config {
    let all = ["razorfsd", "--store=/store"].iter().chain(flags);
    match Command::parse(all) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// What the old process says about its exports, as the new one has them in the end.
fn said(all: &[Left]) -> Vec<(String, bool)> {
    let said = all
        .iter()
        .map(|left| (left.new.to_string(), left.configured));
    said.collect()
}

#[test]
fn all_that_can_be_asked_for_is_handed_over() {
    let old = Old::new();
    let full = NewExport {
        tag: Some("files".into()),
        shared: true,
        cache: Some(CacheMode::Metadata),
        ..old.world.new_export("web", "w")
    };
    let reader = NewExport {
        read_only: true,
        ..old.world.new_export("web", "r")
    };
    for new in [&full, &reader] {
        old.world.exports.attach(new.clone()).unwrap();
    }
    let (taken, gave) = old.update(VERSION, &old.config(&[]), false);
    gave.unwrap();
    let taken = taken.unwrap();
    assert!(!taken.is_changed);
    let all: Vec<_> = taken.all.iter().map(|left| left.new.clone()).collect();
    assert_eq!(all, [old.world.new_export("main", "a"), full, reader]);
    let configured: Vec<_> = taken.all.iter().map(|left| left.configured).collect();
    assert_eq!(configured, [true, false, false]);
    let options: Vec<_> = taken.all.iter().map(|left| left.options).collect();
    // Who reads was told that another writes; the defaults say nothing of that.
    let shared: Vec<_> = options.iter().map(|one| (one.shared, one.cache)).collect();
    let expected = [
        (false, CacheMode::Always),
        (true, CacheMode::Metadata),
        (true, CacheMode::Auto),
    ];
    assert_eq!(shared, expected);
    assert!(options[2].read_only && !options[1].read_only);
    // The sockets are the new one's, which removes them.
    let paths = ["a", "w", "r"].map(|name| old.path(name));
    assert!(paths.iter().all(|path| path.exists()));
    drop(taken);
    assert!(!paths.iter().any(|path| path.exists()));
}

#[test]
fn what_a_request_has_ended_does_not_come_back() {
    let old = Old::new();
    old.world
        .exports
        .detach(old.path("a").to_str().unwrap(), false)
        .unwrap();
    old.world
        .exports
        .attach(old.world.new_export("db", "d"))
        .unwrap();
    let (taken, gave) = old.update(VERSION, &old.config(&[]), false);
    gave.unwrap();
    let all = said(&taken.unwrap().all);
    assert_eq!(all, [(old.world.new_export("db", "d").to_string(), false)]);
}

#[test]
fn nothing_at_all_can_be_handed_over() {
    let old = Old::new();
    old.world.exports.reload(&[]);
    let flag = format!("--socket-dir={}", old.world.dir.path().display());
    let (taken, gave) = old.update(VERSION, &config(&[&flag]), false);
    gave.unwrap();
    assert!(taken.unwrap().all.is_empty() && old.world.exports.goes_on_with_none());
}

#[test]
fn a_configuration_that_says_something_else_is_refused_unless_it_follows() {
    let old = Old::new();
    old.world
        .exports
        .attach(old.world.new_export("web", "w"))
        .unwrap();
    let named = |text: &str| {
        let (dataset, socket) = text.split_once(':').unwrap();
        format!("--export={dataset}:{}", old.path(socket).display())
    };
    let dir = format!("--socket-dir={}", old.world.dir.path().display());
    // One more, one less, another dataset, another tag.
    for flags in [
        vec![named("main:a"), named("db:d")],
        vec![],
        vec![named("db:a")],
        vec![named("main:a:x")],
        vec![named("main:a"), named("db:w")],
    ] {
        let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
        flags.push(&dir);
        let (taken, gave) = old.update(VERSION, &config(&flags), false);
        let refused = taken.err().unwrap().to_string();
        assert!(refused.contains("start it so"), "{flags:?}: {refused}");
        assert!(gave.is_err() && !old.world.exports.is_ending());
    }
    // What was made by a request may be named or not; it is the configuration's then.
    let more = named("web:w");
    let (taken, _) = old.update(VERSION, &old.config(&[&more]), false);
    let taken = taken.unwrap();
    assert!(!taken.is_changed && taken.all.iter().all(|left| left.configured));
    let old = Old::new();
    let more = format!("--export=db:{}", old.path("d").display());
    let (taken, _) = old.update(VERSION, &old.config(&[&more]), true);
    let taken = taken.unwrap();
    assert!(taken.is_changed, "and it is what is there, still");
    assert_eq!(said(&taken.all).len(), 1);
}

#[test]
fn what_could_not_be_removed_in_the_end_is_refused() {
    let old = Old::new();
    let inner = old.world.dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    old.world
        .exports
        .attach(old.world.new_export("web", "inner/w"))
        .unwrap();
    let a = format!("--socket-path={}", old.path("a").display());
    let (taken, gave) = old.update(VERSION, &config(&[&a]), false);
    let refused = taken.err().unwrap().to_string();
    assert!(refused.contains("--socket-dir"), "{refused}");
    assert!(gave.unwrap_err().to_string().contains("--socket-dir"));
    // Beside one that is named is within reach.
    let old = Old::new();
    old.world
        .exports
        .attach(old.world.new_export("web", "w"))
        .unwrap();
    let a = format!("--socket-path={}", old.path("a").display());
    let (taken, _) = old.update(VERSION, &config(&[&a]), false);
    assert_eq!(taken.unwrap().all.len(), 2);
}

#[test]
fn an_older_program_gets_what_it_can_name_or_nothing() {
    let old = Old::new();
    old.world
        .exports
        .attach(old.world.new_export("web", "w"))
        .unwrap();
    let (taken, gave) = old.update(VERSION_OF_NAMES, &old.config(&[]), false);
    let refused = taken.err().unwrap().to_string();
    assert!(
        refused.contains("it serves") && refused.contains("/w"),
        "{refused}"
    );
    assert!(gave.is_err() && !old.world.exports.is_ending());
    let more = format!("--export=web:{}", old.path("w").display());
    let (taken, gave) = old.update(VERSION_OF_NAMES, &old.config(&[&more]), true);
    gave.unwrap();
    let taken = taken.unwrap();
    assert_eq!(said(&taken.all).len(), 2);
    drop(taken);
    assert!(!old.path("w").exists(), "its path was known");
}

#[test]
fn the_socket_for_other_machines_goes_to_who_knows_of_it() {
    for (version, is_known) in [(VERSION_OF_NAMES, false), (VERSION, true)] {
        let mut old = Old::new();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        old.tcp = Some(tcp);
        let (taken, gave) = old.update(version, &old.config(&[]), false);
        assert_eq!(gave.is_ok(), is_known);
        match taken {
            Ok(taken) => {
                let tcp = TcpListener::from(taken.tcp.unwrap());
                assert_eq!(tcp.local_addr().unwrap(), address);
            }
            Err(error) => assert!(error.to_string().contains("--control-tcp"), "{error}"),
        }
    }
}

/// Which frames a program of version 1 knows, it has to get no other ones.
#[test]
fn an_older_program_hears_of_nothing_that_it_does_not_know() {
    let old = Old::new();
    let (end, mut new) = pair();
    std::thread::scope(|scope| {
        let gives = scope.spawn(|| old.hand_over(end));
        let wanted = Wanted {
            version: VERSION_OF_NAMES,
            names: vec![old.path("a").display().to_string()],
            about: None,
        };
        let given = new.take(wanted).unwrap();
        assert!(given.about.is_none() && given.exports.iter().all(|one| one.about.is_none()));
        drop(new);
        assert!(gives.join().unwrap().is_err());
    });
}

#[test]
fn a_newer_program_is_refused_in_words() {
    let old = Old::new();
    let wish = |more: Value| {
        let mut wish = json!({ "exports": [], "follows": true });
        wish.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Some(wish)
    };
    let export = json!({ "exports": [{
        "dataset": "main", "place": { "fd": 3 }, "mode": "new"
    }] });
    for (version, about, said) in [
        (VERSION + 1, None, "older ones, not 3"),
        (VERSION, wish(json!({ "more": 1 })), "unknown field `more`"),
        (VERSION, wish(export), "unknown field `mode`"),
        (VERSION, None, "not understood"),
    ] {
        let (end, mut new) = pair();
        std::thread::scope(|scope| {
            let gives = scope.spawn(|| old.hand_over(end));
            let names = Vec::new();
            let taken = new.take(Wanted {
                version,
                names,
                about,
            });
            let refused = taken.err().unwrap().to_string();
            assert!(refused.contains(said), "{refused}");
            assert!(gives.join().unwrap().is_err());
        });
        assert!(!old.world.exports.is_ending());
    }
}

/// What an old process of another kind hands over, to a new one of this.
fn taken_from(
    about: Option<Value>,
    exports: &[(&str, Option<Value>)],
    version: u32,
    config: &Config,
) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let (mut old, mut new) = pair();
    std::thread::scope(|scope| {
        let gives = scope.spawn(move || {
            old.asked(PROGRAM).unwrap().unwrap();
            let mut socket = 0;
            let standings = exports.iter().map(|_| {
                socket += 1;
                Standing::from(Socket::bind(&dir.path().join(socket.to_string()), None).unwrap())
            });
            let standings: Vec<_> = standings.collect();
            let exports = exports
                .iter()
                .zip(&standings)
                .map(|((name, about), standing)| Export {
                    name: (*name).to_owned(),
                    about: about.clone(),
                    standing,
                });
            let given = Given::<_, BorrowedFd<'_>> {
                about,
                socket: None,
                exports: exports.collect(),
            };
            old.give(&given)
        });
        let taken = take(&mut new, version, config, false).map(drop);
        let taken = taken.and_then(|()| new.begin());
        let gave = gives.join().unwrap();
        assert_eq!(gave.is_ok(), taken.is_ok(), "{gave:?} {taken:?}");
        taken.map_err(|error| error.to_string())
    })
}

#[test]
fn what_an_older_program_hands_over_is_what_was_asked_for() {
    let config = config(&["--socket-path=/run/a", "--socket-path=/run/b"]);
    let (a, b) = (("/run/a", None), ("/run/b", None));
    let from = |exports: &[_]| taken_from(None, exports, VERSION_OF_NAMES, &config);
    from(&[a.clone(), b.clone()]).unwrap();
    for (exports, said) in [
        (vec![a.clone()], "/run/b is missing"),
        (vec![a.clone(), a.clone(), b.clone()], "not asked for"),
        (vec![a, b, ("/run/c", None)], "/run/c was not asked for"),
    ] {
        let refused = from(&exports).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn what_is_handed_over_is_not_believed() {
    let config = config(&["--socket-path=/run/a", "--socket-dir=/run/razorfs"]);
    let about = json!({ "is_changed": false });
    let with = |more: Value| {
        let mut export = json!({
            "dataset": "web", "place": { "path": place(Path::new("/run/razorfs/w")) },
        });
        let fields = more.as_object().unwrap().clone();
        export.as_object_mut().unwrap().extend(fields);
        let served = json!({ "export": export, "is_configured": false, "is_shared": false });
        ("w", Some(served))
    };
    let from = |exports: &[_]| taken_from(Some(about.clone()), exports, VERSION, &config);
    from(&[with(json!({}))]).unwrap();
    from(&[with(json!({ "place": { "fd": 7 } }))]).unwrap();
    let at = |path: &str| json!({ "place": { "path": place(Path::new(path)) } });
    for (exports, said) in [
        (vec![with(json!({})), with(json!({}))], "comes twice"),
        (vec![with(at("/etc/w"))], "--socket-dir"),
        (vec![with(at("/run/razorfs/../../etc/w"))], "the socket"),
        (vec![with(at("w"))], "the socket w"),
        (vec![with(json!({ "tag": "" }))], "a tag has"),
        (
            vec![with(json!({ "cache": "some" }))],
            "the cache mode some",
        ),
        (
            vec![with(json!({ "quota": 1 }))],
            "too new or too old: unknown field",
        ),
        (vec![("w", None)], "not understood"),
    ] {
        let refused = from(&exports).unwrap_err();
        assert!(refused.contains(said), "{said}: {refused}");
    }
    for (about, said) in [
        (Value::Null, "not understood"),
        (json!({ "is_changed": false, "more": 1 }), "not understood"),
        (
            json!({ "is_changed": false, "has_tcp": true }),
            "a socket for other",
        ),
    ] {
        let refused = taken_from(Some(about), &[], VERSION, &config).unwrap_err();
        assert!(refused.contains(said), "{refused}");
    }
}

/// A path in JSON.
fn place(path: &Path) -> Value {
    serde_json::to_value(path.as_os_str()).unwrap()
}

#[test]
fn a_program_that_does_not_say_which_version_it_speaks_speaks_the_first() {
    let program = json!({ "device": 1, "inode": 2, "watchdog_us": null });
    let program: Program = serde_json::from_value(program).unwrap();
    assert_eq!(program.version, VERSION_OF_NAMES);
}
