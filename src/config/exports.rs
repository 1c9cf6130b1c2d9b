//! What is exported where: `--socket-path`, `--fd`, `--export`, and `[[export]]` of the file.

use std::collections::HashSet;
use std::path::PathBuf;

use super::values::{tag, value};
use super::{ConfigError, Endpoint, ExportConfig};
use crate::export::{Defaults, NewExport};
use crate::fs::CacheMode;

/// Reads `DATASET:SOCKET[:TAG][:ro]`.
///
/// # Errors
/// What is wrong with it, for the user.
pub fn parse_export(text: &str) -> Result<NewExport, String> {
    let wrong = |reason: &str| format!("'{text}': {reason}; it is DATASET:SOCKET[:TAG][:ro]");
    let mut parts = text.split(':');
    let dataset = parts.next().filter(|name| !name.is_empty());
    let dataset = dataset.ok_or_else(|| wrong("no dataset"))?;
    let socket = parts.next().filter(|path| !path.is_empty());
    let socket = socket.ok_or_else(|| wrong("no socket"))?;
    let mut new = NewExport {
        dataset: dataset.to_owned(),
        endpoint: Endpoint::Path(PathBuf::from(socket)),
        tag: None,
        read_only: false,
        shared: false,
        cache: None,
    };
    for part in parts {
        match part {
            "ro" if !new.read_only => new.read_only = true,
            _ if new.tag.is_none() && !new.read_only => {
                new.tag = Some(tag(part.to_owned()).map_err(|reason| wrong(&reason))?);
            }
            _ => return Err(wrong("too many parts")),
        }
    }
    Ok(new)
}

/// Checks what is asked for together, and finds what each guest may keep.
pub(super) fn exports(
    asked: Vec<NewExport>,
    defaults: &Defaults,
) -> Result<Vec<ExportConfig>, ConfigError> {
    let mut seen = HashSet::new();
    if let Some(twice) = asked.iter().find(|one| !seen.insert(&one.endpoint)) {
        let reason = format!("the socket {} is given twice", twice.endpoint);
        return Err(value("--socket-path", reason));
    }
    let writes = |one: &NewExport| !one.read_only && !defaults.options.read_only;
    let shared = asked.iter().enumerate().map(|(index, one)| {
        let mut others = asked.iter().enumerate();
        others.any(|(other, each)| other != index && each.dataset == one.dataset && writes(each))
    });
    let shared: Vec<_> = shared.collect();
    let exports = asked.into_iter().zip(shared).map(|(new, shared)| {
        let options = defaults.options_of(&new, shared);
        ExportConfig { new, options }
    });
    Ok(exports.collect())
}

/// Guests that change a dataset together must not believe for long what they remember of it.
pub fn staleness(exports: &[ExportConfig]) -> Vec<String> {
    let mut warnings = Vec::new();
    for ExportConfig { new, options } in exports.iter().filter(|export| export.options.shared) {
        let dataset = &new.dataset;
        let cache = match options.cache {
            CacheMode::Always => Some("--cache=always"),
            CacheMode::Metadata => Some("--cache=metadata"),
            CacheMode::Auto | CacheMode::Never => None,
        };
        let uncached = matches!(options.cache, CacheMode::Metadata | CacheMode::Never);
        let flags = [
            cache,
            options.writeback.then_some("--writeback"),
            (options.allow_mmap && uncached).then_some("--allow-mmap"),
        ];
        for flag in flags.into_iter().flatten() {
            let warning = format!(
                "{flag} with several sockets of dataset '{dataset}': virtual machines do not see \
                 each other's changes"
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::fs::Options;

    fn defaults(options: Options) -> Defaults {
        Defaults {
            options,
            cache: None,
        }
    }

    #[test]
    fn an_export_has_up_to_four_parts() {
        let full = parse_export("web@monday:/run/web:files:ro").unwrap();
        assert_eq!(full.dataset, "web@monday");
        assert_eq!(full.endpoint, Endpoint::Path("/run/web".into()));
        assert_eq!((full.tag.as_deref(), full.read_only), (Some("files"), true));
        let short = parse_export("web:/run/web:ro").unwrap();
        assert!(short.read_only && short.tag.is_none());
        assert!(!parse_export("web:/run/web").unwrap().read_only);
        for wrong in [
            "",
            "web",
            "web:",
            ":/run/web",
            "web:/s:tag:ro:x",
            "web:/s:a:b",
            "web:/s:",
        ] {
            assert!(
                parse_export(wrong).unwrap_err().contains("DATASET:SOCKET"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn guests_of_one_dataset_share_it_and_others_do_not() {
        let asked =
            ["a:/1", "a:/2:ro", "b:/3", "c:/4", "c:/5"].map(|text| parse_export(text).unwrap());
        let all = exports(asked.to_vec(), &defaults(Options::default())).unwrap();
        let shared: Vec<_> = all.iter().map(|export| export.options.shared).collect();
        assert_eq!(shared, [false, true, false, true, true]);
        let cache = all.iter().map(|export| export.options.cache);
        let kept: Vec<_> = cache.map(|cache| cache == CacheMode::Always).collect();
        assert_eq!(kept, [true, false, true, false, false]);
        assert!(all[1].options.read_only && !all[0].options.read_only);
        let read_only = Options {
            read_only: true,
            ..Options::default()
        };
        let all = exports(asked.to_vec(), &defaults(read_only)).unwrap();
        assert!(
            all.iter()
                .all(|export| export.options.read_only && !export.options.shared)
        );
        let twice = ["a:/1", "b:/1"].map(|text| parse_export(text).unwrap());
        let error = exports(twice.to_vec(), &defaults(Options::default())).unwrap_err();
        assert!(error.to_string().contains("/1"));
    }
}
