//! Command lines and configuration files.

use super::*;
use super::{args, file};
use crate::engine::Durability;
use crate::fs::CacheMode;
use crate::schedule::Which;
use crate::transport::vhost_user::Cpus;
use std::time::Duration;

fn parse(args: &[&str]) -> Result<Config, ConfigError> {
    let all = std::iter::once("razorfsd").chain(args.iter().copied());
    match Command::parse(all)? {
        Command::Serve(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn error(args: &[&str]) -> String {
    parse(args).unwrap_err().to_string()
}

const MIN: [&str; 4] = ["--socket-path", "/run/s", "--store", "/srv/store"];

fn with(more: &[&str]) -> Vec<&'static str> {
    let more = more
        .iter()
        .map(|s| -> &'static str { s.to_string().leak() });
    MIN.into_iter().chain(more).collect()
}

#[test]
fn the_least_command_line_serves_safely() {
    let config = parse(&MIN).unwrap();
    assert_eq!(config.store, PathBuf::from("/srv/store"));
    assert_eq!(config.open.durability, Durability::Fsync);
    assert!(!config.open.allow_volatile && !config.open.read_only);
    assert_eq!(config.device.tag, None);
    assert!(!config.device.exit_on_disconnect);
    assert!(config.notes.is_empty());
}

#[test]
fn nobody_listens_on_the_network_without_token_and_tls() {
    let tcp = |more: &[&str]| parse(&with(more)).map(|config| config.control_tcp);
    let token = ["--control-token-file", "/t"];
    let here = ["--control-tcp", "127.0.0.1:7"];
    let all = ["--control-tcp", "0.0.0.0:7"];
    let tls = ["--control-cert", "/c", "--control-key", "/k"];
    let plain = ["--control-plaintext"];
    assert_eq!(tcp(&[]).unwrap(), None);
    let open = tcp(&[&all[..], &token, &tls].concat()).unwrap().unwrap();
    assert_eq!(open.token_file, PathBuf::from("/t"));
    assert!(open.identity.is_some());
    let here_plain = tcp(&[&here[..], &token, &plain].concat()).unwrap().unwrap();
    assert_eq!(here_plain.identity, None);
    for refused in [
        [&all[..], &tls, &[]].concat(),
        [&here[..], &plain, &[]].concat(),
        [&here[..], &token, &[]].concat(),
        [&all[..], &token, &plain].concat(),
        [&all[..], &token, &tls[..2]].concat(),
        [&here[..], &token, &tls, &plain].concat(),
        [&token[..], &[]].concat(),
        [&tls[..], &[]].concat(),
        [&plain[..], &[]].concat(),
        [&["--control-tcp", "localhost:7"][..], &token, &plain].concat(),
    ] {
        assert!(tcp(&refused).is_err(), "{refused:?}");
    }
}

#[test]
fn libvirt_s_old_way_is_understood() {
    let config = parse(&[
        "--fd=14",
        "-o",
        "source=/srv/store,cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock",
        "-d",
    ])
    .unwrap();
    assert_eq!(config.exports[0].new.endpoint, Endpoint::Fd(14));
    assert_eq!(config.store, PathBuf::from("/srv/store"));
    assert_eq!(config.exports[0].options.cache, CacheMode::Always);
    assert!(config.exports[0].options.xattr);
    assert_eq!(config.log_level, LevelFilter::Debug);
    assert!(config.device.exit_on_disconnect, "as libvirt expects");
}

#[test]
fn libvirt_s_new_way_is_understood() {
    let config = parse(&[
        "--fd=14",
        "--shared-dir",
        "/srv/store",
        "--cache",
        "never",
        "--sandbox",
        "namespace",
        "--xattr",
        "--thread-pool-size=8",
        "--rlimit-nofile=4096",
        "--uid-map=:0:100000:1000:",
        "--gid-map=:0:100000:1000:",
        "--log-level",
        "debug",
    ])
    .unwrap();
    assert_eq!(config.exports[0].options.cache, CacheMode::Never);
    assert_eq!(config.device.pool_threads_max, 8);
    assert_eq!(config.descriptors_max, Some(4096));
    assert!(config.notes.iter().any(|n| n.contains("--uid-map")));
    assert_eq!(config.sandbox, Some(Action::Kill));
}

#[test]
fn numbers_have_units_and_limits() {
    let config = parse(&with(&[
        "--dirty-limit",
        "1.5G",
        "--commit-interval",
        "0.25",
        "--cache-size",
        "64M",
    ]))
    .unwrap();
    assert_eq!(config.open.cache_bytes, 64 << 20);
    assert_eq!(config.open.dirty_limit_bytes, 3 << 29);
    assert_eq!(config.open.commit_interval, Duration::from_millis(250));
    for (option, value) in [
        ("--dirty-limit", "1X"),
        ("--dirty-limit", "-1"),
        ("--dirty-limit", "99999999999G"),
        ("--dirty-limit", "1"),
        ("--commit-interval", "0"),
        ("--commit-interval", "nan"),
        ("--commit-interval", "1e9"),
        ("--tag", ""),
        ("--tag", "a tag of more than thirty-six bytes, really"),
        ("--num-queues", "0"),
        ("--num-queues", "129"),
        ("--thread-pool-size", "100000"),
        ("--poll-us", "10001"),
        ("--cpu-affinity", ""),
        ("--cpu-affinity", "1,x"),
        ("--cpu-affinity", "3-1"),
        ("--cpu-affinity", "1024"),
        ("--durability", "maybe"),
        ("--cache", "sometimes"),
    ] {
        let message = error(&with(&[&format!("{option}={value}")]));
        assert!(message.contains(option), "{option} {value}: {message}");
    }
}

#[test]
fn each_guest_has_a_socket_of_its_own() {
    let config = parse(&with(&["--socket-path=/run/b"])).unwrap();
    let paths = ["/run/s", "/run/b"].map(|path| Endpoint::Path(path.into()));
    let found: Vec<_> = config
        .exports
        .iter()
        .map(|each| &each.new.endpoint)
        .collect();
    assert_eq!(found, [&paths[0], &paths[1]]);
    assert!(config.exports.iter().all(|each| each.new.dataset == "main"));
    assert!(error(&with(&["--socket-path", "/run/s"])).contains("/run/s"));
    assert!(config.notes.is_empty() && config.warnings.is_empty());
}

#[test]
fn datasets_are_exported_each_to_its_own_guest() {
    let args = [
        "--store=/s",
        "--export=a:/run/a:files",
        "--export=b@x:/run/b:ro",
    ];
    let config = parse(&args).unwrap();
    let [a, b] = config.exports.as_slice() else {
        panic!("{:?}", config.exports);
    };
    assert_eq!(
        (a.new.dataset.as_str(), a.new.tag.as_deref()),
        ("a", Some("files"))
    );
    assert!(b.options.read_only && !a.options.read_only && !config.open.read_only);
    assert!(error(&["--store=/s", "--export=a"]).contains("DATASET:SOCKET"));
    assert!(error(&with(&["--export=a:/run/s"])).contains("/run/s"));
    let both = parse(&with(&["--export=main:/run/b"])).unwrap();
    assert!(both.exports.iter().all(|export| export.options.shared));
}

#[test]
fn a_kernel_that_has_the_store_for_itself_keeps_everything() {
    let export = |args: &[&str]| parse(&with(args)).unwrap().exports[0].options;
    assert_eq!(export(&[]).cache, CacheMode::Always);
    assert!(!export(&[]).no_open() && export(&[]).no_opendir());
    assert!(export(&["--cache=always"]).no_open());
    assert!(!export(&["--cache=always", "--readonly"]).no_open());
    let asked = export(&["--cache=auto"]);
    assert!(asked.cache == CacheMode::Auto && !asked.no_open() && !asked.shared);
    let several = export(&["--socket-path=/run/b"]);
    assert!(several.cache == CacheMode::Auto && several.shared);
    // Nobody can change it.
    let several = export(&["--socket-path=/run/b", "--readonly"]);
    assert!(several.cache == CacheMode::Always && !several.shared);
}

#[test]
fn flags_that_let_guests_see_what_is_not_so_are_named() {
    for stale in [
        &["--cache=always"] as &[_],
        &["--cache=metadata"],
        &["--writeback"],
        &["--allow-mmap", "--cache=never"],
    ] {
        let warnings = |several: &[&str]| {
            let more: Vec<&str> = [several, stale].concat();
            parse(&with(&more)).unwrap().warnings
        };
        let found = warnings(&["--socket-path=/run/b"]);
        let named = found.iter().any(|said| said.contains(stale[0]));
        assert!(named, "{found:?}");
        assert!(warnings(&[]).is_empty());
        assert!(warnings(&["--socket-path=/run/b", "--readonly"]).is_empty());
    }
    let mapped = parse(&with(&["--socket-path=/run/b", "--allow-mmap"])).unwrap();
    assert!(mapped.exports[0].options.allow_mmap && mapped.warnings.is_empty());
}

#[test]
fn threads_are_bound_to_listed_cpus() {
    let device = |args: &[&str]| parse(&with(args)).unwrap().device;
    let cpus = |list: &[usize]| Cpus::new(list.to_vec());
    assert_eq!(device(&[]).cpus, cpus(&[]));
    assert_eq!(device(&["--cpu-affinity=2,4-6"]).cpus, cpus(&[2, 4, 5, 6]));
    assert_eq!(
        device(&["--poll-us=50"]).poll_max,
        Duration::from_micros(50)
    );
}

#[test]
fn what_is_missing_or_contradictory_is_named() {
    assert!(error(&["--store", "/s"]).contains("--socket-path"));
    assert!(error(&["--socket-path", "/s"]).contains("--store"));
    assert!(error(&with(&["--fd", "5"])).contains("--fd"));
    assert!(error(&with(&["-o", "source=/elsewhere"])).contains("source"));
    assert!(error(&["--fd", "5", "--store", "/s", "--socket-group", "kvm"]).contains("group"));
}

#[test]
fn what_would_not_be_done_is_refused_by_name() {
    for (args, name) in [
        (["--xattrmap", ":map::user.:"], "--xattrmap"),
        (["--translate-uid", "map:0:1:1"], "--translate-uid"),
        (["--migration-mode", "find-paths"], "--migration-mode"),
        (["-o", "xattrmap=x"], "xattrmap"),
        (["-o", "frobnicate"], "frobnicate"),
    ] {
        let message = error(&with(&args));
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn capabilities_are_json_and_need_nothing_else() {
    assert!(matches!(
        Command::parse(["razorfsd", "--print-capabilities"]),
        Ok(Command::PrintCapabilities)
    ));
    let json: serde_json::Value = serde_json::from_str(CAPABILITIES).unwrap();
    assert_eq!(json["type"], "fs");
    assert_eq!(json["features"][0], "separate-options");
}

#[test]
fn confinement_is_on_unless_it_is_switched_off() {
    let sandbox = |args: &[&str]| parse(&with(args)).unwrap().sandbox;
    assert_eq!(sandbox(&[]), Some(Action::Kill));
    assert_eq!(sandbox(&["--sandbox=chroot"]), Some(Action::Kill));
    assert_eq!(sandbox(&["-o", "sandbox=none"]), None);
    assert_eq!(sandbox(&["--sandbox=none"]), None);
    assert_eq!(sandbox(&["--seccomp=log"]), Some(Action::Log));
    assert_eq!(sandbox(&["--seccomp=none"]), Some(Action::Allow));
    for bad in ["--sandbox=sometimes", "--seccomp=maybe"] {
        let option = bad.split('=').next().unwrap();
        assert!(error(&with(&[bad])).contains(option));
    }
}

#[test]
fn commands_find_the_daemon_unless_they_are_not_to() {
    let control = |args: &[&str]| parse(&with(args)).unwrap().control;
    assert_eq!(control(&[]), Control::InStore);
    assert_eq!(control(&["--control=none"]), Control::Off);
    assert_eq!(control(&["--control=/run/c"]), Control::At("/run/c".into()));
}

#[test]
fn options_switch_the_export() {
    let config = parse(&with(&[
        "-o",
        "no_readdirplus,writeback,no_xattr,no_snapshots",
        "--readonly",
    ]))
    .unwrap();
    assert!(!config.exports[0].options.readdirplus && config.exports[0].options.writeback);
    assert!(!config.exports[0].options.snapshots);
    assert!(!config.exports[0].options.xattr && !config.exports[0].options.posix_acl);
    assert!(config.exports[0].options.read_only && config.open.read_only);
    let config = parse(&with(&["--posix-acl=never"])).unwrap();
    assert!(config.exports[0].options.xattr && !config.exports[0].options.posix_acl);
}

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

#[test]
fn guests_start_or_come_from_another_host_or_daemon() {
    let start = |args: &[&str]| parse(&with(args)).unwrap().start;
    assert_eq!(start(&[]), Start::Fresh);
    assert_eq!(start(&["--incoming"]), Start::Incoming);
    assert_eq!(start(&["--take-over"]), Start::TakeOver);
    assert_eq!(start(&["--reload", "7"]), Start::Reload(7));
    assert!(error(&with(&["--reload", "7", "--take-over"])).contains("--take-over"));
    // Neither is a daemon: a group of processes, and who looks after all.
    for pid in ["-7", "0", "1", "x"] {
        assert!(error(&with(&[&format!("--reload={pid}")])).contains("--reload"));
    }
    assert!(error(&with(&["--incoming", "--take-over"])).contains("--take-over"));
    let all = ["--store=/s", "--fd=5", "--take-over"];
    assert_eq!(parse(&all).unwrap().start, Start::TakeOver);
}
