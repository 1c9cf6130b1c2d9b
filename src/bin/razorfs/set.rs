//! `razorfs set STORE KEY=VALUE...`: changes settings of a dataset.

use clap::Args;
use clap::builder::NonEmptyStringValueParser as Name;
use razorfs::config::parse_size;
use razorfs::control::api::{ChangeDataset, ChangeStore};
use razorfs::engine::Settings;

use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Changes settings of a dataset, or the size of the store. They hold for what is written from then on: a quota below what is
/// used keeps it from growing.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The dataset.
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = Name::new())]
    dataset: String,
    #[command(flatten)]
    store: StoreArgs,
    /// What to set: compression=off|lz4|zstd[:LEVEL], dedup=off|on|verify, quota=BYTES|none (what its
    /// files may take), quota-inodes=NUMBER|none, reservation=BYTES|none (what no other dataset
    /// gets). Or for the store itself, alone: size=BYTES|none (what all content may take; not below what
    /// is used and reserved). K, M, G, T, P stand for powers of 1024.
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<String>,
}

/// Changes them: durable when this returns.
///
/// # Errors
/// When a setting or a dataset is not known, or the store cannot be written to.
pub fn run(args: &SetArgs) -> Result<(), Error> {
    if let Some(change) = parse_size_of_store(&args.settings)? {
        let changed = args
            .store
            .with(false, |session| session.change_store(&change))?;
        return args.store.tell(&changed);
    }
    let settings = parse(&args.settings)?;
    let change = ChangeDataset {
        name: None,
        compression: settings.compression.map(|codec| codec.to_string()),
        dedup: settings.dedup.map(|dedup| dedup.to_string()),
        quota_bytes: settings.quota_bytes,
        quota_inodes: settings.quota_inodes,
        reservation_bytes: settings.reservation_bytes,
    };
    let changed = args.store.with(false, |session| {
        session.change_dataset(&args.dataset, &change)
    })?;
    args.store.tell(&changed)
}

/// The size of the store, if that is what is to be set.
fn parse_size_of_store(given: &[String]) -> Result<Option<ChangeStore>, String> {
    let sizes = given.iter().filter_map(|one| one.strip_prefix("size="));
    match (sizes.clone().next_back(), given.len()) {
        (None, _) => Ok(None),
        (Some(size), 1) => Ok(Some(ChangeStore {
            capacity_bytes: Some(limit("size", size)?),
        })),
        (Some(_), _) => Err("size is the store's, not a dataset's: set it alone".into()),
    }
}

fn parse(given: &[String]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for one in given {
        let (key, value) = one
            .split_once('=')
            .ok_or_else(|| format!("'{one}' is not KEY=VALUE"))?;
        match key {
            "compression" => {
                let value = value.parse().map_err(|error| format!("{key}: {error}"))?;
                settings.compression = Some(value);
            }
            "dedup" => {
                let value = value.parse().map_err(|error| format!("{key}: {error}"))?;
                settings.dedup = Some(value);
            }
            "quota" => settings.quota_bytes = Some(limit(key, value)?),
            "quota-inodes" => settings.quota_inodes = Some(limit(key, value)?),
            "reservation" => settings.reservation_bytes = Some(limit(key, value)?),
            _ => {
                return Err(format!(
                    "there is no setting '{key}'; there are: compression, dedup, quota, \
                     quota-inodes, reservation, size"
                ));
            }
        }
    }
    Ok(settings)
}

/// A limit as it is in settings, where 0 stands for none.
fn limit(key: &str, value: &str) -> Result<u64, String> {
    match value {
        "none" => Ok(0),
        _ => parse_limit(value).map_err(|error| format!("{key}: {error}")),
    }
}

/// A limit that there is.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_limit(value: &str) -> Result<u64, String> {
    match parse_size(value)? {
        0 => Err("0 is not a limit; say none for none".into()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn parsed(given: &[&str]) -> Result<Settings, String> {
        parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// Whatever is given is a limit that there is, none, or an error that says what was given.
    #[test]
    fn limits_are_read_or_refused() {
        let pieces = [
            "0",
            "7",
            "18446744073709551615",
            ".",
            "5",
            "K",
            "T",
            "P",
            "iB",
            "-",
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut read = 0;
        for _ in 0..100_000 {
            let count = rng.random_range(0..5);
            let value: String = (0..count)
                .map(|_| pieces[rng.random_range(0..10)])
                .collect();
            match limit("quota", &value) {
                Ok(0) => panic!("'{value}' is no limit"),
                Ok(_) => read += 1,
                Err(error) => assert!(error.starts_with("quota: "), "{error}"),
            }
        }
        assert!(read > 1000, "{read}");
        assert_eq!(limit("quota", "none"), Ok(0));
    }

    #[test]
    fn a_size_is_set_alone() {
        let size = |given: &[&str]| {
            let given: Vec<_> = given.iter().map(ToString::to_string).collect();
            parse_size_of_store(&given)
                .map(|change| change.and_then(|change| change.capacity_bytes))
        };
        assert_eq!(size(&["size=3G"]), Ok(Some(3 << 30)));
        assert_eq!(size(&["size=none"]), Ok(Some(0)));
        assert_eq!(size(&["dedup=on"]), Ok(None));
        assert!(
            size(&["size=3G", "dedup=on"])
                .unwrap_err()
                .contains("alone")
        );
        assert!(size(&["size=0"]).unwrap_err().contains("size: 0 is not"));
    }

    #[test]
    fn settings_are_checked() {
        let given = ["compression=lz4", "dedup=verify", "compression=zstd:9"];
        let set = parsed(&given).unwrap();
        assert_eq!(set.compression, "zstd:9".parse().ok());
        assert_eq!(set.dedup, "verify".parse().ok());
        let limits = ["quota=10G", "quota-inodes=1M", "reservation=1.5K"];
        let set = parsed(&limits).unwrap();
        assert_eq!(set.quota_bytes, Some(10 << 30));
        assert_eq!(set.quota_inodes, Some(1 << 20));
        assert_eq!(set.reservation_bytes, Some(1536));
        let none = ["quota=none", "quota-inodes=none", "reservation=none"];
        let set = parsed(&none).unwrap();
        assert_eq!(set.quota_bytes, Some(0));
        assert_eq!(set.quota_inodes, Some(0));
        assert_eq!(set.reservation_bytes, Some(0));
        for (given, word) in [
            ("compression", "KEY=VALUE"),
            ("compression=gzip", "off, lz4, zstd"),
            ("compression=zstd:99", "1 to 19"),
            ("dedup=yes", "off, on, and verify"),
            ("speed=9", "there are: compression, dedup, quota,"),
            ("quota=0", "quota: 0 is not a limit"),
            ("quota=", "quota: '' is not a number"),
            ("quota=-1", "'-1' is not a number"),
            ("quota=16384P", "below 2^64"),
            ("quota-inodes=many", "'many' is not a number"),
            ("reservation=None", "'None' is not a number"),
        ] {
            let error = parsed(&[given]).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
    }
}
