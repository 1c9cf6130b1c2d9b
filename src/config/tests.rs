//! Command lines and configuration files.

mod in_file;

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
