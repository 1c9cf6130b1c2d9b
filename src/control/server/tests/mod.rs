//! Requests to a store on a simulated disk, each answer compared with the document.

mod calls;
mod connections;
mod datasets;
mod events;
mod exports;
mod faults;
mod imports;
mod metrics;
mod races;
mod receives;
mod streams;
mod tcp;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::connections::Limits;
use super::{Served, document, router};
use crate::disk::sim::SimMedia;
use crate::engine::{Clock, Cred, MkfsOptions, NewInode, OpenOptions, Store, Time, Volume, mkfs};
use crate::export::{Common, Defaults, Exports};
use crate::format::id::Ino;
use crate::fs::Options;
use crate::fsck;
use crate::transport::vhost_user::DeviceOptions;

const DATASETS: &str = "/api/v1/datasets";
const SNAPSHOTS: &str = "/api/v1/snapshots";
const CLONES: &str = "/api/v1/clones";

/// A store, and what answers requests about it.
struct World {
    sim: SimMedia,
    store: Arc<Store>,
    exports: Ended,
    /// Where sockets of exports may be made.
    dir: tempfile::TempDir,
    router: Router,
    runtime: Runtime,
    document: Value,
}

/// Far more than an end takes that waits for nobody, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(60);

/// At its end it waits that long for who is waited for.
fn patient() -> Limits {
    Limits {
        end_time: PATIENCE,
        answer_time: 2 * PATIENCE,
        ..Limits::default()
    }
}

/// Who sends nothing is cut off soon.
fn short_of_patience() -> Limits {
    Limits {
        silence: Duration::from_secs(1),
        ..Limits::default()
    }
}

/// An answer: its status, and its body if there is one.
type Answer = (u16, Value);

fn clock() -> Clock {
    Arc::new(|| Time {
        sec: 1_000_000_000,
        nsec: 5_000_000,
    })
}

fn open(sim: &SimMedia, read_only: bool) -> Arc<Store> {
    let options = OpenOptions {
        background: false,
        read_only,
        ..OpenOptions::default()
    };
    Store::open_media(sim.media(), options, clock()).unwrap()
}

fn make() -> SimMedia {
    let sim = SimMedia::new();
    mkfs(sim.media(), &MkfsOptions::reproducible(), &clock()).unwrap();
    sim
}

/// Exports that end with the test.
struct Ended(Arc<Exports>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
        self.0.wait().unwrap();
    }
}

fn exports_of(store: &Arc<Store>, dir: &Path) -> Arc<Exports> {
    let common = Common {
        device: DeviceOptions {
            request_queues: 1,
            tag: Some("files".into()),
            ..DeviceOptions::default()
        },
        defaults: Defaults {
            options: Options::default(),
            cache: None,
        },
        group: None,
        socket_dir: Some(dir.to_owned()),
    };
    Exports::new(Arc::clone(store), common)
}

impl World {
    fn new() -> World {
        World::on(make(), false)
    }

    fn on(sim: SimMedia, read_only: bool) -> World {
        let store = open(&sim, read_only);
        let dir = tempfile::tempdir().unwrap();
        let exports = exports_of(&store, dir.path());
        let served = Served::new(Arc::clone(&store), Arc::clone(&exports));
        World {
            sim,
            store,
            exports: Ended(exports),
            dir,
            router: router(served),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            document: serde_json::to_value(document()).unwrap(),
        }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let sent = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.send(method, path, sent)
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, body)
    }

    fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, body)
    }

    fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, &Value::Null)
    }

    /// Sends a request, and sees that the document has such an answer to it.
    fn send(&self, method: &str, path: &str, body: String) -> Answer {
        let answer = self
            .runtime
            .block_on(send(&self.router, method, path, body));
        self.check(method, path, &answer);
        answer
    }

    fn check(&self, method: &str, path: &str, (status, body): &Answer) {
        let place = format!("{method} {path}: {status} {body}");
        if let (405, _) | (404, None) = (*status, self.path_of(path)) {
            return;
        }
        let described = self.path_of(path).unwrap_or_else(|| panic!("{place}"));
        let operation = &described[method.to_lowercase()];
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "not in the document: {place}");
        let contents = response["content"].as_object();
        match contents.and_then(|contents| contents.values().next()) {
            Some(content) => self.fits(&content["schema"], body, &place),
            None => assert!(body.is_null(), "{place}"),
        }
    }

    /// What the document says of a path.
    fn path_of(&self, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap();
        let parts: Vec<_> = path.split('/').collect();
        let paths = self.document["paths"].as_object().unwrap();
        let found = paths.iter().find(|(pattern, _)| {
            let pattern: Vec<_> = pattern.split('/').collect();
            let mut pairs = pattern.iter().zip(&parts);
            pattern.len() == parts.len()
                && pairs.all(|(pattern, part)| pattern == part || pattern.starts_with('{'))
        });
        found.map(|(_, described)| described)
    }

    /// Sees that a value is what a schema says: no field is missing, none is there besides.
    fn fits(&self, schema: &Value, value: &Value, place: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let pointer = name.strip_prefix('#').unwrap();
            let schema = self.document.pointer(pointer).expect(name);
            return self.fits(schema, value, place);
        }
        let types: Vec<_> = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(
            types.is_empty() || types.contains(&is),
            "{value} is not {types:?}: {place}"
        );
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(value), "{value}: {place}");
        }
        for item in value.as_array().into_iter().flatten() {
            self.fits(&schema["items"], item, place);
        }
        let Some(known) = schema["properties"].as_object() else {
            return;
        };
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(value.get(name).is_some(), "no {name}: {place}");
        }
        for (name, field) in value.as_object().unwrap() {
            let known = known.get(name).unwrap_or_else(|| panic!("{name}: {place}"));
            self.fits(known, field, place);
        }
    }

    fn names(&self, path: &str) -> Vec<String> {
        let (status, all) = self.get(path);
        assert_eq!(status, 200, "{all}");
        let names = all.as_array().unwrap().iter();
        names
            .map(|each| each["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Ends the test: the store is sound.
    fn finish(self) {
        drop((self.runtime, self.exports));
        self.store.close().unwrap();
        assert_eq!(fsck::errors(&self.sim.media()).unwrap(), [""; 0]);
    }
}

async fn send(router: &Router, method: &str, path: &str, body: String) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body)).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let is_text = answer.headers().get(CONTENT_TYPE);
    let is_text = is_text.is_some_and(|kind| kind.as_bytes().starts_with(b"text/"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = match body.is_empty() {
        true => Value::Null,
        false if is_text => String::from_utf8(body.to_vec()).unwrap().into(),
        false => serde_json::from_slice(&body).unwrap(),
    };
    (status, body)
}

/// A file with content that is in memory only.
fn write(volume: &Volume, name: &str, bytes: &[u8]) -> Ino {
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let made = volume.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new);
    let ino = made.unwrap().ino;
    let mut source = bytes;
    let flags = crate::engine::WriteFlags::default();
    volume
        .write(ino, 0, bytes.len(), &mut source, flags)
        .unwrap();
    ino
}

/// The kind of a refusal.
fn kind((_, body): &Answer) -> &str {
    assert!(!body["message"].as_str().unwrap().is_empty());
    body["error"].as_str().unwrap()
}

fn name(name: &str) -> Value {
    json!({ "name": name })
}

/// `web` with a directory, of which there is a snapshot.
fn with_a_directory() -> World {
    let world = World::new();
    world.post(DATASETS, &name("web"));
    let web = world.store.volume("web").unwrap();
    let dir = crate::engine::NewInode {
        mode: libc::S_IFDIR | 0o755,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    web.create(Cred::default(), Ino::ROOT, b"d\n\xff", &dir)
        .unwrap();
    write(&web, "file", b"content");
    drop(web);
    assert_eq!(world.post(SNAPSHOTS, &name("web@s")).0, 201);
    world
}
