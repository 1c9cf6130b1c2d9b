//! What is to be done to a store at a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::due::{Done, Moment, slot};
use super::names::{name_of, time_of};
use super::retention::kept;
use super::{Schedule, Which};
use crate::engine::{DatasetError, DatasetInfo, Store};

/// How long after something failed it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Schedules, and how far they are.
#[derive(Default)]
pub struct Work {
    schedules: Vec<(Schedule, State)>,
    /// What failed, by dataset and prefix: it was told once.
    told: BTreeMap<(String, String), String>,
}

#[derive(Default)]
struct State {
    done: Done,
    /// Not before this is it tried again.
    wait_until: Option<Duration>,
}

impl Work {
    /// Schedules of which nothing was done yet.
    #[must_use]
    pub fn new(schedules: Vec<Schedule>) -> Work {
        let mut work = Work::default();
        work.replace(schedules);
        work
    }

    /// Other schedules from here on. Those that stay go on where they are.
    pub fn replace(&mut self, schedules: Vec<Schedule>) {
        let mut before = std::mem::take(&mut self.schedules);
        let goes_on = |schedule: Schedule| {
            let at = before.iter().position(|(old, _)| *old == schedule);
            let state = at.map(|at| before.swap_remove(at).1);
            (schedule, state.unwrap_or_default())
        };
        self.schedules = schedules.into_iter().map(goes_on).collect();
    }

    /// Whether there is nothing to be done at any time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty()
    }

    /// Does what is due. `is_over`: whether to leave the rest.
    pub fn tick(&mut self, store: &Arc<Store>, now: Moment, is_over: &dyn Fn() -> bool) {
        for at in 0..self.schedules.len() {
            let Some((schedule, state)) = self.schedules.get(at) else {
                return;
            };
            let waits = state.wait_until.is_some_and(|until| now.running < until);
            if waits || !state.done.is_due(now, schedule.every) {
                continue;
            }
            let schedule = schedule.clone();
            let all_well = self.run(store, &schedule, now, is_over);
            if is_over() {
                return;
            }
            if let Some((_, state)) = self.schedules.get_mut(at) {
                match all_well {
                    true => {
                        state.done.note(now, schedule.every);
                        state.wait_until = None;
                    }
                    false => state.wait_until = Some(now.running.saturating_add(TRY_AGAIN)),
                }
            }
        }
    }

    /// One schedule; whether nothing failed.
    fn run(
        &mut self,
        store: &Arc<Store>,
        schedule: &Schedule,
        now: Moment,
        is_over: &dyn Fn() -> bool,
    ) -> bool {
        let all = match store.list() {
            Ok(all) => all,
            Err(error) => {
                return self.told("", schedule, Err(error.into()));
            }
        };
        let others = self.schedules.iter().map(|(other, _)| other);
        let named: Vec<_> = others
            .filter_map(|other| named_by(other, schedule))
            .collect();
        let is_meant = |info: &&DatasetInfo| match &schedule.which {
            _ if info.snapshot_of.is_some() => false,
            Which::Named(name) => info.name == *name,
            Which::All => !named.contains(&info.name),
        };
        let meant: Vec<_> = all.iter().filter(is_meant).collect();
        if let (Which::Named(name), []) = (&schedule.which, meant.as_slice()) {
            return self.told(name, schedule, Err(DatasetError::NotFound(name.clone())));
        }
        let mut all_well = true;
        for dataset in meant {
            if is_over() {
                return all_well;
            }
            let done = see_to(store, schedule, dataset, &all, now.wall);
            all_well &= self.told(&dataset.name, schedule, done);
        }
        all_well
    }

    /// Tells of a failure, once for each cause, and of its end.
    fn told(&mut self, dataset: &str, schedule: &Schedule, done: Result<(), DatasetError>) -> bool {
        let key = (dataset.to_owned(), schedule.prefix.clone());
        match done {
            Ok(()) => {
                if self.told.remove(&key).is_some() {
                    log::info!("scheduled snapshots of '{dataset}' are taken again");
                }
                true
            }
            Err(error) => {
                let text = error.to_string();
                // Numbers in it change while the cause does not.
                let cause = text.replace(|c: char| c.is_ascii_digit(), "");
                if self.told.insert(key, cause.clone()) != Some(cause) {
                    log::error!(
                        "scheduled snapshots of '{dataset}' fail, and are tried again each minute: \
                         {text}"
                    );
                }
                false
            }
        }
    }

    /// Failures that were told of and are not over.
    #[cfg(test)]
    pub(super) fn failing(&self) -> usize {
        self.told.len()
    }
}

/// The dataset that a schedule names, if it comes before another one, of all datasets.
fn named_by(other: &Schedule, all: &Schedule) -> Option<String> {
    match &other.which {
        Which::Named(name) if other.prefix == all.prefix => Some(name.clone()),
        _ => None,
    }
}

/// Takes a dataset's snapshot, if there is none in this slot and something has changed since the
/// last one, and deletes those that do not stay.
fn see_to(
    store: &Arc<Store>,
    schedule: &Schedule,
    dataset: &DatasetInfo,
    all: &[DatasetInfo],
    now: i64,
) -> Result<(), DatasetError> {
    let mut own: BTreeMap<i64, &DatasetInfo> = BTreeMap::new();
    for each in all
        .iter()
        .filter(|each| each.snapshot_of == Some(dataset.id))
    {
        let name = each.name.split_once('@').map(|(_, name)| name);
        if let Some(time) = name.and_then(|name| time_of(&schedule.prefix, name)) {
            own.insert(time, each);
        }
    }
    // What is dated later was taken by a clock that was wrong: it stays, and counts for nothing.
    own.retain(|time, _| *time <= now);
    let newest = own.last_key_value();
    let is_there =
        newest.is_some_and(|(time, _)| slot(*time, schedule.every) == slot(now, schedule.every));
    let mut times: BTreeSet<i64> = own.keys().copied().collect();
    if !is_there && has_changed(store, dataset, newest.map(|(_, newest)| *newest))? {
        times.extend(take(store, schedule, dataset, now)?);
    }
    let Some(keep) = &schedule.keep else {
        return Ok(());
    };
    let stay = kept(&times, keep);
    for (_, snapshot) in own.iter().filter(|(time, _)| !stay.contains(time)) {
        delete(store, snapshot)?;
    }
    Ok(())
}

fn has_changed(
    store: &Arc<Store>,
    dataset: &DatasetInfo,
    newest: Option<&DatasetInfo>,
) -> Result<bool, DatasetError> {
    match newest {
        None => Ok(true),
        Some(newest) => match store.has_changed_since(&dataset.name, &newest.name) {
            // Somebody has deleted or renamed it meanwhile.
            Err(DatasetError::NotFound(_)) => Ok(true),
            other => other,
        },
    }
}

/// Takes a snapshot; the time that its name says, if it was taken.
fn take(
    store: &Arc<Store>,
    schedule: &Schedule,
    dataset: &DatasetInfo,
    now: i64,
) -> Result<Option<i64>, DatasetError> {
    let Some(name) = name_of(&schedule.prefix, now) else {
        return Err(DatasetError::Refused {
            name: dataset.name.clone(),
            reason: "the clock shows a year that names of snapshots cannot have",
        });
    };
    let named = format!("{}@{name}", dataset.name);
    match store.snapshot(&named) {
        Ok(_) => {
            log::info!("took the snapshot {named}");
            Ok(time_of(&schedule.prefix, &name))
        }
        // It was taken in this minute; or the dataset is gone meanwhile.
        Err(DatasetError::Exists(_)) => Ok(time_of(&schedule.prefix, &name)),
        Err(DatasetError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a snapshot, unless it is held or in use.
fn delete(store: &Arc<Store>, snapshot: &DatasetInfo) -> Result<(), DatasetError> {
    // Its name may be another one's by now, as the dataset's may.
    match store.find(&snapshot.name) {
        Ok(found) if found.id == snapshot.id => {}
        Ok(_) | Err(DatasetError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    }
    match store.delete(&snapshot.name, false) {
        Ok(()) => {
            log::info!("deleted the snapshot {}", snapshot.name);
            Ok(())
        }
        Err(
            DatasetError::Held(_)
            | DatasetError::Busy(_)
            | DatasetError::Receiving(_)
            | DatasetError::NotFound(_),
        ) => Ok(()),
        Err(error) => Err(error),
    }
}
