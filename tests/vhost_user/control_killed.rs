//! SIGKILL of the daemon in the middle of each call that changes something: behind the next opening
//! it was carried out or was not, whoever asks again gets there, and the store is sound.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::control::call;
use crate::daemon::Daemon;

/// Kills in the middle of each call; more by `RAZORFS_KILLS`.
const KILLS: u32 = 4;
const SEED: u64 = 20_265;

/// A call, and what asking again may be answered with once it was carried out.
struct Call {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    body: Value,
    /// What is uploaded instead of a body in JSON.
    upload: Option<PathBuf>,
    again: &'static [u16],
}

impl Call {
    /// Whose content it changes, if anybody's.
    fn dataset(&self) -> &'static str {
        match self.what {
            "receive" => "new",
            _ => "web",
        }
    }
}

const DONE: &[u16] = &[200, 201, 202];

/// Each that changes something; what is uploaded lies in `dir`.
fn calls(dir: &Path) -> Vec<Call> {
    let new = |what, method, path, body, again| Call {
        what,
        method,
        path,
        body,
        upload: None,
        again,
    };
    let upload = |what, path, file: &str, again| Call {
        upload: Some(dir.join(file)),
        ..new(what, "POST", path, Value::Null, again)
    };
    let settings =
        json!({"quota_bytes": 1 << 30, "compression": "lz4", "reservation_bytes": 1 << 20});
    let all = json!({"name": "new", "quota_bytes": 1 << 20, "dedup": "on"});
    let part = json!({"snapshot": "web@base", "source": "/srv", "destination": "/back"});
    let over = json!({"snapshot": "web@base", "source": "/srv", "replace": true});
    let project = json!({"dataset": "web", "id": 7, "quota_bytes": 1 << 30, "path": "srv"});
    let export = json!({"dataset": "web", "socket": "web.sock"});
    vec![
        new("create", "POST", "datasets", all, DONE),
        new("set", "PATCH", "datasets/web", settings, DONE),
        new(
            "snapshot",
            "POST",
            "snapshots",
            json!({"name": "web@new"}),
            DONE,
        ),
        new(
            "hold",
            "PATCH",
            "snapshots/web@base",
            json!({"is_held": true}),
            DONE,
        ),
        new(
            "release",
            "PATCH",
            "snapshots/web@held",
            json!({"is_held": false}),
            DONE,
        ),
        new(
            "rename",
            "PATCH",
            "datasets/gone",
            json!({"name": "renamed"}),
            &[404],
        ),
        new(
            "rename a snapshot",
            "PATCH",
            "snapshots/gone@s",
            json!({"name": "gone@t"}),
            &[404],
        ),
        new(
            "clone",
            "POST",
            "clones",
            json!({"source": "web@base", "name": "new"}),
            DONE,
        ),
        new(
            "clone what is in use",
            "POST",
            "clones",
            json!({"source": "web", "name": "new"}),
            DONE,
        ),
        new(
            "promote",
            "POST",
            "datasets/copy/promote",
            Value::Null,
            &[422],
        ),
        new(
            "restore",
            "POST",
            "snapshots/web@base/restore",
            Value::Null,
            DONE,
        ),
        new("restore a part", "POST", "snapshots/restore", part, &[409]),
        new("restore over", "POST", "snapshots/restore", over, DONE),
        new(
            "delete",
            "DELETE",
            "datasets/gone?recursive=true",
            Value::Null,
            &[404],
        ),
        new(
            "delete a snapshot",
            "DELETE",
            "snapshots/gone@s",
            Value::Null,
            &[404],
        ),
        new("project", "POST", "projects", project, DONE),
        new("export", "POST", "exports", export, DONE),
        new("unexport", "DELETE", "exports/socket", Value::Null, &[404]),
        new(
            "size",
            "PATCH",
            "store",
            json!({"capacity_bytes": 1u64 << 32}),
            DONE,
        ),
        new("trim", "POST", "trim", json!({}), DONE),
        new(
            "rewrite",
            "POST",
            "datasets/web/rewrite",
            json!({"path": "srv/0"}),
            DONE,
        ),
        new("compact", "POST", "compact", json!({}), DONE),
        new("scrub", "POST", "scrub", json!({"restart": true}), DONE),
        new("stop the scrub", "DELETE", "scrub", Value::Null, &[204]),
        upload("import", "datasets/web/import?to=/in&merge=true", TAR, DONE),
        upload("receive", "datasets/new/receive", STREAM, &[409, 422]),
        new(
            "abort a receive",
            "DELETE",
            "datasets/part/receive",
            Value::Null,
            &[404],
        ),
        new(
            "send",
            "GET",
            "snapshots/web@base/stream",
            Value::Null,
            DONE,
        ),
    ]
}

/// What is uploaded.
const TAR: &str = "import.tar";
const STREAM: &str = "stream";

/// A store with one of everything, not in use, and beside it what can be uploaded.
fn template() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..40u32 {
        let path = dir.path().join("srv").join(n.to_string());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, n.to_le_bytes().repeat(9000)).unwrap();
    }
    let tree = dir.path().to_str().unwrap();
    let mut daemon = Daemon::start_prepared(
        &[
            &["create", "web"],
            &["import", tree, "--dataset", "web"],
            &["snapshot", "web@base"],
            &["snapshot", "web@held"],
            &["hold", "web@held"],
            &["clone", "web@base", "copy"],
            &["clone", "web@base", "gone"],
            &["snapshot", "gone@s"],
        ],
        &[],
    );
    // So that restoring does something.
    std::fs::write(dir.path().join("srv/more"), [1; 100_000]).unwrap();
    std::fs::write(dir.path().join("new"), [2; 100_000]).unwrap();
    daemon.stop();
    let merged = daemon.command("import", &[tree, "--dataset", "web", "--merge"]);
    assert!(merged.status.success(), "{merged:?}");
    let output = |verb: &str, rest: &[&str], file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_razorfs"));
        let store = daemon.dir().join("store");
        let made = command.arg(verb).arg(store).args(rest).output().unwrap();
        assert!(made.status.success(), "{verb}: {:?}", made.status);
        std::fs::write(daemon.dir().join(file), &made.stdout).unwrap();
        made.stdout
    };
    output("extract", &["web", "-"], TAR);
    let stream = output("send", &["web@base"], STREAM);
    // And a dataset into which some of a stream came.
    let cut = daemon.dir().join("cut");
    std::fs::write(&cut, &stream[..stream.len() / 2]).unwrap();
    let cut = Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .args(["receive", "--allow-volatile"])
        .arg(daemon.dir().join("store"))
        .arg("part")
        .stdin(File::open(cut).unwrap())
        .output()
        .unwrap();
    assert!(!cut.status.success(), "{cut:?}");
    daemon
}

/// Whether some call is what the document describes.
fn is_covered(calls: &[Call], method: &str, path: &str) -> bool {
    let described: Vec<&str> = path.split('/').skip(3).collect();
    calls.iter().any(|call| {
        let path = call.path.split('?').next().unwrap_or_default();
        let path: Vec<&str> = path.split('/').collect();
        let same = |(one, other): (&&str, &&str)| one.starts_with('{') || one == other;
        call.method.eq_ignore_ascii_case(method)
            && path.len() == described.len()
            && described.iter().zip(&path).all(same)
    })
}

/// A call that is new has to be here too.
fn check_all_are_there(template: &Daemon, calls: &[Call]) {
    let mut daemon = template.copy();
    look(&daemon);
    let (_, document) = call(&daemon.control(), "GET", "/api/v1/openapi.json", "").unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        for method in methods.filter(|method| *method != "get") {
            let is_there = is_covered(calls, method, path);
            assert!(is_there, "{method} {path} is not killed in its middle");
        }
    }
    daemon.stop();
}

/// Asks, and says how it was answered. The body of a stream is not JSON: it counts as answered when it
/// ends.
fn ask(daemon: &Daemon, call: &Call) -> Option<u16> {
    let (dir, body) = (daemon.dir(), &call.body);
    let mut path = format!("/api/v1/{}", call.path);
    let mut body = body.clone();
    let at = |name: &str| dir.join(name).display().to_string();
    if call.what == "export" {
        body["socket"] = at("web.sock").into();
    }
    if call.what == "unexport" {
        path = format!("/api/v1/exports/{}", at("socket").replace('/', "%2F"));
    }
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    if call.what == "send" || call.upload.is_some() {
        let url = format!("http://razorfs{path}");
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--unix-socket",
        ])
        .arg(daemon.control())
        .arg(url);
        if let Some(file) = &call.upload {
            let kind = "Content-Type: application/octet-stream";
            curl.args(["-H", kind, "--data-binary"])
                .arg(format!("@{}", file.display()));
        }
        let out = curl.output().unwrap();
        let status = String::from_utf8(out.stdout).unwrap();
        return out.status.success().then(|| status.parse().unwrap());
    }
    self::call(&daemon.control(), call.method, &path, &text).map(|(status, _)| status)
}

/// What there is, but for what is another thing each time.
fn look(daemon: &Daemon) -> Value {
    let get = |path: &str| {
        let (status, body) = call(&daemon.control(), "GET", path, "").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    // Who begins to use a dataset clears what was left of an attempt to restore a part.
    let none = json!({"path": "none"}).to_string();
    let used = call(
        &daemon.control(),
        "POST",
        "/api/v1/datasets/web/rewrite",
        &none,
    );
    assert_eq!(used.unwrap().0, 404);
    let mut datasets = get("/api/v1/datasets");
    for each in datasets.as_array_mut().unwrap() {
        for field in ["id", "uuid", "created_at"] {
            each.as_object_mut().unwrap().remove(field);
        }
    }
    let unfinished = |dataset: &str| {
        let path = format!("/api/v1/datasets/{dataset}/receive");
        call(&daemon.control(), "GET", &path, "").unwrap().0
    };
    json!({
        "datasets": datasets,
        "unfinished": unfinished("part"),
        "projects": get("/api/v1/projects?dataset=web"),
        "capacity_bytes": get("/api/v1/stats")["capacity_bytes"],
        "differences": get("/api/v1/differences?old=web@held&new=web"),
        "is_writable": get("/api/v1/stats")["is_writable"],
    })
}

/// Where two values differ, and what the second has there.
fn differences(one: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), one, other)];
    while let Some((place, one, other)) = pending.pop() {
        match (one, other) {
            (Value::Object(fields), Value::Object(_)) => {
                let fields = fields.iter();
                pending.extend(
                    fields.map(|(name, one)| (format!("{place}.{name}"), one, &other[name])),
                );
            }
            (Value::Array(all), Value::Array(others)) if all.len() == others.len() => {
                let all = all.iter().zip(others).enumerate();
                pending.extend(all.map(|(n, (one, other))| (format!("{place}[{n}]"), one, other)));
            }
            _ if one == other => {}
            _ => found.push(format!("{place}: {other}, not {one}")),
        }
    }
    found
}

/// All files of a dataset, and their content.
fn content(daemon: &Daemon, dataset: &str) -> Vec<(String, Vec<u8>)> {
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("out");
    let done = Command::new(env!("CARGO_BIN_EXE_razorfs"))
        .arg("extract")
        .arg(daemon.dir().join("store"))
        .arg(dataset)
        .arg(&to)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let mut files = Vec::new();
    walk(&to, &to, &mut files);
    files.sort();
    files
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        match path.is_dir() {
            true => walk(root, &path, files),
            false => files.push((name, std::fs::read(path).unwrap())),
        }
    }
}

/// What a call makes of the store when nothing is in its way, and how long it takes.
struct Whole {
    before: Value,
    after: Value,
    content: Vec<(String, Vec<u8>)>,
    took: Duration,
}

fn carry_out(template: &Daemon, call: &Call) -> Whole {
    let mut daemon = template.copy();
    let before = look(&daemon);
    let since = Instant::now();
    let status = ask(&daemon, call);
    let took = since.elapsed();
    assert!(
        status.is_some_and(|status| status < 300),
        "{}: {status:?}",
        call.what
    );
    // As it is behind an opening: that clears up.
    daemon.reopen();
    let after = look(&daemon);
    daemon.stop();
    let content = content(&daemon, call.dataset());
    Whole {
        before,
        after,
        content,
        took,
    }
}

/// What there is once nothing is cleared up any more that a crash left: hidden inodes count until
/// then. Waits for one of those that may be.
fn settled(daemon: &Daemon, expected: &[&Value]) -> Value {
    let since = Instant::now();
    loop {
        let found = look(daemon);
        if expected.contains(&&found) || since.elapsed() > Duration::from_secs(20) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the daemon so long after a call was made; whether it was carried out, if that can be told.
fn kill(
    template: &Daemon,
    call: &Call,
    whole: &Whole,
    pause: Duration,
    place: &str,
) -> Option<bool> {
    let mut daemon = template.copy();
    // It listens before it has opened the store.
    assert_eq!(look(&daemon), whole.before);
    let pid = daemon.pid();
    let answered = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&daemon, call));
        std::thread::sleep(pause);
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        asked.join().unwrap()
    });
    daemon.kill();
    daemon.check();
    daemon.restart();
    let found = settled(&daemon, &[&whole.before, &whole.after]);
    let is_done = found == whole.after;
    // A tree is given to a project inode by inode, and imported file by file.
    let is_step_by_step = ["project", "import"].contains(&call.what);
    assert!(
        is_done || found == whole.before || is_step_by_step,
        "{place}: half done, where it differs from before: {:#?}, from after: {:#?}",
        differences(&whole.before, &found),
        differences(&whole.after, &found)
    );
    if let Some(status) = answered {
        assert!(
            status < 300 && is_done,
            "{place}: answered with {status}, not done"
        );
    }
    if call.what == "receive" {
        // What came of it stays for who goes on with it; a whole stream begins anew.
        let path = "/api/v1/datasets/new/receive";
        self::call(&daemon.control(), "DELETE", path, "").unwrap();
    }
    let again = ask(&daemon, call).unwrap();
    let changes = whole.before != whole.after;
    let is_right = match changes && is_done {
        true => call.again.contains(&again),
        false => again < 300,
    };
    assert!(
        is_right,
        "{place}: asked again: {again}, done before: {is_done}"
    );
    daemon.reopen();
    let found = settled(&daemon, &[&whole.after]);
    assert_eq!(found, whole.after, "{place}: asked again");
    daemon.stop();
    let content = content(&daemon, call.dataset());
    assert!(content == whole.content, "{place}: content");
    daemon.check();
    changes.then_some(is_done)
}

#[test]
fn each_call_was_carried_out_or_was_not_after_a_kill_in_its_middle() {
    let kills = std::env::var("RAZORFS_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = std::env::var("RAZORFS_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    println!("RAZORFS_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let template = template();
    let (mut done, mut not_done) = (0, 0);
    let calls = calls(template.dir());
    check_all_are_there(&template, &calls);
    for call in calls {
        let whole = carry_out(&template, &call);
        let longest = (whole.took * 3 / 2).max(Duration::from_micros(500));
        let mut count = 0;
        for n in 0..kills {
            let pause = random.random_range(Duration::ZERO..longest);
            let place = format!("{}, kill {n} after {pause:?}", call.what);
            if let Some(is_done) = kill(&template, &call, &whole, pause, &place) {
                done += u32::from(is_done);
                not_done += u32::from(!is_done);
                count += u32::from(is_done);
            }
        }
        println!(
            "{}: {:?}, {count} of {kills} carried out",
            call.what, whole.took
        );
    }
    println!("{done} carried out, {not_done} not");
    assert!(
        done >= kills && not_done >= kills,
        "{done} carried out, {not_done} not"
    );
}
