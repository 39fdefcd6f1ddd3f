//! The suite that both engines pass: every topic is written once, over a [`Rig`] that makes the engine.
//!
//! etcd is started from /usr/bin/etcd on loopback, in a temporary directory, and stopped by its pid. Tests of the embedded
//! engine alone (`disk`) and of etcd alone (`outage`) stand beside.

mod compaction;
mod concurrency;
mod crash;
mod disk;
mod etcd;
mod leases;
mod metrics;
mod outage;
mod ranges;
mod rig;
mod watches;
mod writes;

/// A test for each engine.
macro_rules! both_engines {
    ($($topic:ident: $($name:ident),* $(,)?;)*) => {
        mod embedded {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$topic::$name(super::rig::Rig::embedded()).await;
                }
            )*)*
        }
        mod over_etcd {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$topic::$name(super::rig::Rig::etcd()).await;
                }
            )*)*
        }
    };
}

both_engines! {
    writes: keys_have_their_revisions, nothing_to_do_takes_no_revision, several_keys_change_at_one_revision,
        a_conflict_says_what_is_there, senseless_requests_are_refused, any_bytes_are_keys_and_values;
    ranges: each_revision_reads_as_it_was, limits_count_and_page, a_long_listing_is_one_state, modes_return_what_they_say;
    watches: history_is_replayed_in_order, a_transaction_is_one_item, only_the_range_is_seen, all_watchers_see_one_order,
        the_future_can_be_watched, progress_follows_requests, a_slow_watcher_loses_nothing,
        a_watcher_overtaken_by_compaction_ends;
    compaction: old_revisions_are_refused, what_lives_survives, watches_of_old_revisions_are_refused;
    leases: keys_end_with_their_lease, keepalive_prolongs, revoking_deletes_at_once, events_end_by_themselves;
    concurrency: histories_are_linearizable, concurrent_creates_have_one_winner;
    crash: kill_during_writes_loses_nothing, a_clean_restart_keeps_everything;
}
