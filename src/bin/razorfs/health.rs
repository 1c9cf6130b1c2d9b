//! What `razorfs info` says of how a store does.

use razorfs::engine::health::{self, Files, FreeSpace, Space};
use razorfs::format::id::DatasetId;
use razorfs::format::record::WearRecord;
use razorfs::store::{Read, StoreError};
use serde_json::{Map, Value, json};

use crate::info::human;

/// What is to be read for it, besides what costs nothing.
pub struct Walk {
    /// Free ranges.
    pub free: bool,
    /// The trees of these datasets, and the names, which take so many bytes.
    pub files: Option<(Vec<DatasetId>, u64)>,
}

/// How a store does.
pub struct Health {
    space: Space,
    wear: WearRecord,
    free: Option<FreeSpace>,
    files: Option<(Files, u64)>,
}

impl Health {
    /// Reads it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn read(view: &impl Read, walk: Walk) -> Result<Self, StoreError> {
        let free = walk.free.then(|| health::free_space(view)).transpose()?;
        let files = match walk.files {
            Some((datasets, bytes)) => Some((health::files(view, datasets)?, bytes)),
            None => None,
        };
        Ok(Health {
            space: health::space(view)?,
            wear: health::wear(view)?,
            free,
            files,
        })
    }

    /// Adds it to an object.
    pub fn put_json(&self, fields: &mut Map<String, Value>) {
        let space = json!({
            "used_bytes": self.space.used_bytes,
            "given_back_bytes": self.space.punched_bytes,
        });
        fields.insert("space".into(), space);
        let wear = json!({
            "guest_bytes": self.wear.guest_bytes,
            "disk_bytes": self.wear.disk_bytes,
            "amplification_percent": self.wear.amplification_percent(),
        });
        fields.insert("written".into(), wear);
        if let Some(free) = &self.free {
            let free = json!({
                "bytes": free.bytes,
                "pieces": free.pieces,
                "largest_bytes": free.largest_bytes,
            });
            fields.insert("free_space".into(), free);
        }
        if let Some((files, stored_bytes)) = &self.files {
            let value = json!({
                "entries": files.entries,
                "entry_name_bytes": files.entry_name_bytes,
                "names": files.names,
                "stored_bytes": stored_bytes,
                "entry_record_bytes": files.entry_record_bytes,
                "saved_basis_points": files.saved_basis_points(*stored_bytes),
                "bare_saved_basis_points": files.bare_saved_basis_points(*stored_bytes),
            });
            fields.insert("names".into(), value);
            let value = json!({
                "with_content": files.with_content,
                "extents": files.extents,
                "extents_percent": files.extents_percent(),
            });
            fields.insert("files".into(), value);
        }
    }

    /// The same as lines of text.
    pub fn as_text(&self) -> String {
        let (used, back) = (self.space.used_bytes, self.space.punched_bytes);
        let mut text = format!(
            "space           {} used, {} given back to the disk below\n",
            human(used),
            human(back)
        );
        let wear = &self.wear;
        if wear.guest_bytes > 0 {
            text += &format!(
                "written         {} by guests, {} to the disk: {} bytes for each\n",
                human(wear.guest_bytes),
                human(wear.disk_bytes),
                hundredths(wear.amplification_percent())
            );
        }
        if let Some(free) = &self.free {
            text += &format!(
                "free space      {} between chunks, in {} pieces, the largest of {}\n",
                human(free.bytes),
                free.pieces,
                human(free.largest_bytes)
            );
        }
        if let Some((files, stored)) = &self.files {
            text += &format!(
                "names           {} in {} entries, as records {}; {} different ones take {}: \
                 {} % saved, of the bare bytes {} %\n",
                human(files.entry_name_bytes),
                files.entries,
                human(files.entry_record_bytes),
                files.names,
                human(*stored),
                percent(files.saved_basis_points(*stored)),
                percent(files.bare_saved_basis_points(*stored)),
            );
            text += &format!(
                "files           {} with content, in {} extents, {} each\n",
                files.with_content,
                files.extents,
                hundredths(files.extents_percent())
            );
        }
        text
    }
}

fn percent(basis_points: i64) -> String {
    let sign = if basis_points < 0 { "-" } else { "" };
    format!("{sign}{}", hundredths(basis_points.unsigned_abs()))
}

/// Hundredths, with a point.
pub fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}
