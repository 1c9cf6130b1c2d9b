//! What razorfsd.toml says, beside flags.

use super::*;

/// A configuration file, and flags besides.
fn with_file(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.toml");
    std::fs::write(&path, text).unwrap();
    let named = format!("--config={}", path.display());
    parse(&[&[named.as_str()], flags].concat())
}

const STORE: &str = "store = '/srv/store'\n";

#[test]
fn the_file_says_what_flags_say_under_their_names() {
    let text = "
        store = '/srv/store'
        socket-path = ['/run/a', '/run/b']
        socket-group = 'kvm'
        commit-interval = '250 ms'
        dirty-limit = '64 MiB'
        cache-size = 33554432
        scrub-interval = 0.5
        scrub-rate = '8M'
        trim-interval = '5 min'
        compact = 40
        durability = 'strict'
        cache = 'never'
        num-queues = 4
        thread-pool-size = 0
        poll-us = 50
        cpu-affinity = '2,4-6'
        readonly = true
        no-snapshots = false
        exit-on-disconnect = true
        log-level = 'debug'
        log-format = 'json'
        sandbox = 'none'
        control = 'none'
        rlimit-nofile = 4096
        socket-dir = '/run/razorfs'
    ";
    let config = with_file(text, &[]).unwrap();
    let flags = [
        "--store=/srv/store",
        "--socket-path=/run/a",
        "--socket-path=/run/b",
        "--socket-group=kvm",
        "--commit-interval=0.25",
        "--dirty-limit=64M",
        "--cache-size=32M",
        "--scrub-interval=0.5",
        "--scrub-rate=8M",
        "--trim-interval=300",
        "--compact=40",
        "--durability=strict",
        "--cache=never",
        "--num-queues=4",
        "--thread-pool-size=0",
        "--poll-us=50",
        "--cpu-affinity=2,4-6",
        "--readonly",
        "--exit-on-disconnect",
        "--log-level=debug",
        "--log-format=json",
        "--sandbox=none",
        "--control=none",
        "--rlimit-nofile=4096",
        "--socket-dir=/run/razorfs",
    ];
    let other = parse(&flags).unwrap();
    let told = |config: &Config| {
        let config = Config {
            settings: Vec::new(),
            file: None,
            ..config.clone()
        };
        format!("{config:?}")
    };
    assert_eq!(told(&config), told(&other));
}

#[test]
fn every_flag_that_is_shown_can_stand_in_the_file() {
    let shown = args::command();
    let shown = shown.get_arguments().filter(|arg| file::has_key(arg));
    let mut count = 0;
    for arg in shown {
        count += 1;
        let name = arg.get_long().unwrap();
        let is_switch = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let value = if is_switch { "true" } else { "'1'" };
        let said = match with_file(&format!("{STORE}{name} = {value}\n"), &[]) {
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        assert!(!said.contains("unknown key"), "{name}: {said}");
    }
    assert!(count > 25, "{count}");
}

#[test]
fn flags_take_the_place_of_what_the_file_says() {
    let text = "
        store = '/srv/store'
        cache-size = '64M'
        dirty-limit = '64M'
        readonly = true
        cpu-affinity = '1'
        socket-path = '/run/a'
        [[export]]
        dataset = 'web'
        socket = '/run/w'
    ";
    let flags = ["--cache-size=32M", "--readonly=false", "--store=/other"];
    let config = with_file(text, &flags).unwrap();
    assert_eq!(
        (config.open.cache_bytes, config.open.dirty_limit_bytes),
        (32 << 20, 64 << 20)
    );
    assert!(!config.open.read_only);
    assert_eq!(config.store, PathBuf::from("/other"));
    let exported = |config: &Config| -> Vec<String> {
        let all = config.exports.iter();
        all.map(|each| each.new.endpoint.to_string()).collect()
    };
    assert_eq!(exported(&config), ["/run/a", "/run/w"]);
    // Exports are one thing: one that a flag names takes the place of all.
    for flag in ["--socket-path=/run/b", "--export=db:/run/b"] {
        let config = with_file(text, &[flag]).unwrap();
        assert_eq!(exported(&config), ["/run/b"]);
    }
    assert_eq!(exported(&with_file(text, &["--fd=7"]).unwrap()), ["fd:7"]);
    let source = with_file(text, &["-o", "source=/x"]).unwrap().store;
    assert_eq!(source, PathBuf::from("/x"));
}

#[test]
fn keys_that_go_together_stand_together() {
    let tcp = "
        store = '/srv/store'
        socket-path = '/run/a'
        control-tcp = '127.0.0.1:9000'
        control-token-file = '/etc/razorfs/token'
        control-cert = '/etc/razorfs/cert'
        control-key = '/etc/razorfs/key'
        control-plaintext = false
    ";
    assert!(with_file(tcp, &[]).unwrap().control_tcp.is_some());
    let alone = tcp.replace("control-token-file", "#");
    let said = with_file(&alone, &[]).unwrap_err().to_string();
    assert!(said.contains("--control-token-file"), "{said}");
}

#[test]
fn exports_and_schedules_are_tables() {
    let text = "
        store = '/srv/store'
        [[export]]
        socket = '/run/m'
        [[export]]
        dataset = 'web@monday'
        socket = '/run/w'
        tag = 'files'
        readonly = true
        cache = 'never'
        [[export]]
        dataset = 'db'
        socket = '/run/d'
        shared = true
        [[snapshots]]
        dataset = '*'
        every = '15m'
        keep = { last = 4, hourly = 24, daily = 7, weekly = 4, monthly = 12, yearly = 1 }
        [[snapshots]]
        dataset = 'web'
        every = '1d'
        prefix = 'day-'
    ";
    let config = with_file(text, &[]).unwrap();
    let [main, web, db] = config.exports.as_slice() else {
        panic!("{:?}", config.exports);
    };
    assert_eq!(
        (main.new.dataset.as_str(), main.options.cache),
        ("main", CacheMode::Always)
    );
    assert_eq!(
        (web.new.dataset.as_str(), web.new.tag.as_deref()),
        ("web@monday", Some("files"))
    );
    assert!(web.options.read_only && web.options.cache == CacheMode::Never);
    assert!(db.options.shared && db.options.cache == CacheMode::Auto);
    let [all, web] = config.schedules.as_slice() else {
        panic!("{:?}", config.schedules);
    };
    assert_eq!(
        (&all.which, all.every, all.prefix.as_str()),
        (&Which::All, Duration::from_secs(900), "auto-")
    );
    let keep = all.keep.unwrap();
    assert_eq!((keep.last, keep.hourly, keep.daily), (4, 24, 7));
    assert_eq!((keep.weekly, keep.monthly, keep.yearly), (4, 12, 1));
    assert_eq!((&web.which, web.keep), (&Which::Named("web".into()), None));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_place_and_what_is_allowed() {
    for (text, words) in [
        (
            "dirty-limt = '1M'",
            "line 2: unknown key 'dirty-limt'; did you mean 'dirty-limit'?",
        ),
        (
            "frobnicate = 1",
            "line 2: unknown key 'frobnicate'; known are: export, snapshots, ",
        ),
        (
            "\ndirty_limit = 1",
            "line 3: unknown key 'dirty_limit'; did you mean 'dirty-limit'?",
        ),
        ("uid-map = 'x'", "line 2: unknown key 'uid-map'"),
        ("config = '/x'", "line 2: unknown key 'config'"),
        (
            "durability = 'maybe'",
            "line 2: 'durability': 'maybe' is none of: strict, fsync, relaxed",
        ),
        (
            "dirty-limit = '1X'",
            "line 2: 'dirty-limit': '1X' is not a size of at least 1M",
        ),
        (
            "dirty-limit = ['1M', '2M']",
            "line 2: 'dirty-limit': one value is wanted",
        ),
        (
            "commit-interval = '1y'",
            "line 2: 'commit-interval': '1y' is not within",
        ),
        (
            "num-queues = 4.5",
            "line 2: 'num-queues': '4.5': invalid digit",
        ),
        (
            "num-queues = 0",
            "line 2: 'num-queues': 0 is not within 1 to",
        ),
        (
            "readonly = 'perhaps'",
            "line 2: 'readonly': 'perhaps' is none of: true, false",
        ),
        (
            "readonly = 2026-11-21",
            "line 2: 'readonly': a string, a number, true or false is wanted",
        ),
        (
            "log-level = 'loud'",
            "line 2: 'log-level': 'loud' is not a level",
        ),
        ("store = '/twice'", "line 2: duplicate key"),
        ("a b", "line 2: "),
        (
            "[[export]]\nsockt = '/s'",
            "line 2: [[export]] needs the key 'socket'",
        ),
        (
            "[[export]]\nsocket = '/s'\nread-only = true",
            "line 4: unknown key 'read-only' in [[export]]; did you mean 'readonly'?",
        ),
        (
            "[[export]]\nsocket = '/s'\nreadonly = 'yes'",
            "line 4: 'readonly': true or false is wanted, and this is a string",
        ),
        (
            "[[export]]\nsocket = '/s'\ncache = 'some'",
            "line 4: 'cache': 'some' is none of: auto, always, metadata, never",
        ),
        (
            "[[export]]\nsocket = '/s'\ndataset = 'a/b'",
            "line 4: 'dataset': 'a/b' cannot be a name",
        ),
        (
            "[[export]]\nsocket = '/s'\ntag = ''",
            "line 4: 'tag': a tag has 1 to 36 bytes",
        ),
        (
            "[export]\nsocket = '/s'",
            "line 2: 'export': these are tables, each begins with [[export]]",
        ),
        (
            "[[snapshots]]\ndataset = 'a'",
            "line 2: [[snapshots]] needs the key 'every'",
        ),
        (
            "[[snapshots]]\ndataset = 'a@b'\nevery = '1h'",
            "line 3: 'dataset': that is the name of a snapshot",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '30s'",
            "line 4: 'every': a time from '1m' to '366d' is wanted",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = 15",
            "line 4: 'every': a time from",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '1h'\nprefix = 'a@b'",
            "line 5: 'prefix'",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '1h'\nkeep = { hourly = -1 }",
            "line 5: 'hourly': a whole number from 0",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '1h'\nkeep = { hourli = 1 }",
            "line 5: unknown key 'hourli' in 'keep' of [[snapshots]]; did you mean 'hourly'?",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '1h'\nkeep = { hourly = 0 }",
            "line 5: 'keep' keeps nothing",
        ),
        (
            "[[snapshots]]\ndataset = '*'\nevery = '1h'\n[[snapshots]]\ndataset = '*'\nevery = '2h'",
            "line 5: there are two [[snapshots]] of dataset '*' with the prefix 'auto-'",
        ),
    ] {
        let said = with_file(&format!("{STORE}{text}\n"), &["--socket-path=/run/s"]);
        let said = said.unwrap_err().to_string();
        assert!(
            said.contains(&format!("vm.toml, {words}")),
            "{text}\n  {said}"
        );
    }
    let missing = parse(&["--config=/no/such/file"]).unwrap_err().to_string();
    assert!(missing.contains("/no/such/file: No such file"), "{missing}");
    let twice = format!("{STORE}[[export]]\nsocket = '/s'\n[[export]]\nsocket = '/s'\n");
    assert!(
        with_file(&twice, &[])
            .unwrap_err()
            .to_string()
            .contains("/s is given twice")
    );
    // A flag that takes its place makes it good.
    let bad_size = format!("{STORE}socket-path = '/s'\npoll-us = 99999\n");
    assert!(with_file(&bad_size, &[]).is_err());
    assert!(with_file(&bad_size, &["--poll-us=5"]).is_ok());
}

#[test]
fn a_daemon_may_begin_with_no_export_where_some_may_come() {
    let said = with_file(STORE, &[]).unwrap_err().to_string();
    assert!(said.contains("--socket-dir"), "{said}");
    assert!(
        with_file(STORE, &["--socket-dir=/run/r"])
            .unwrap()
            .exports
            .is_empty()
    );
}

#[test]
fn who_said_what_is_in_force_is_told() {
    let text = format!("{STORE}cache-size = '64M'\n[[export]]\nsocket = '/run/s'\n");
    let config = with_file(&text, &["--dirty-limit=32M"]).unwrap();
    let shown = config.as_text();
    let line = |name: &str| {
        let line = shown.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {shown}"))
    };
    assert!(line("dirty-limit").ends_with("32M  (command line)"));
    assert!(line("cache-size").contains("64M  (") && line("cache-size").ends_with("line 2)"));
    assert!(line("scrub-rate").ends_with("16M"));
    assert!(line("export").ends_with("main on /run/s, cache always"));
    let json = config.as_json();
    let settings = json["settings"].as_array().unwrap();
    let cache = settings
        .iter()
        .find(|each| each["name"] == "cache-size")
        .unwrap();
    assert_eq!(
        (&cache["from"], &cache["line"]),
        (&"file".into(), &2.into())
    );
    assert_eq!(json["exports"][0]["socket"], "/run/s");
}

#[test]
fn what_cannot_change_while_the_daemon_runs_is_named() {
    let text = format!("{STORE}socket-path = '/run/s'\ncache-size = '64M'\n");
    let old = with_file(&text, &[]).unwrap();
    let live = "log-level = 'debug'\nscrub-interval = 3\ntrim-interval = 5\ncompact = 0\n";
    let live = with_file(&format!("{text}{live}"), &[]).unwrap();
    assert!(old.fixed_differences(&live).is_empty());
    let fixed = text.replace("64M", "32M") + "writeback = true\ncpu-affinity = '1'\n";
    let said = old.fixed_differences(&with_file(&fixed, &[]).unwrap());
    let [cache, cpus, writeback] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert!(cache.starts_with("cache-size cannot change") && cache.ends_with("stays 64M, not 32M"));
    assert!(cpus.ends_with("stays not set, not 1"), "{cpus}");
    assert!(writeback.ends_with("stays false, not true"));
}
