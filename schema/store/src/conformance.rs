//! The conformance suite: the behaviours that every store must have, run on each store.
//!
//! The crate of a store implements [`Harness`] and runs the suite in a test of its own:
//!
//! ```ignore
//! store::conformance_suite!(Embedded::new());
//! ```
//!
//! The macro makes one `#[tokio::test]` per behaviour, each on an empty store. Nothing here reads a clock or
//! draws a random number: times start at [`Harness::now`], ids are counted.

#![allow(missing_docs, reason = "a behaviour is documented by its name")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a behaviour that fails panics: it is a test")]

use std::{future::Future, time::Duration};

use schema::time::Timestamp;

use crate::Stores;

pub mod documents;
pub mod everything;
pub mod grants;
pub mod ledger;
pub mod logins;
pub mod permissions;
pub mod roles;
pub mod sample;
pub mod sessions;
pub mod upkeep;
pub mod users;

/// A time after [`Harness::now`] by which every row of the suite that should expire has expired.
pub const LONG: Duration = Duration::from_secs(400 * 24 * 3600);

/// How the suite opens a store. Each behaviour uses its own harness.
pub trait Harness: Sync {
    /// Opens an empty store. For a store over a network, a cleared one suffices.
    fn open(&self) -> impl Future<Output = Stores> + Send;

    /// Closes the store and opens it again. For a store over a network, a new connection suffices.
    fn restart(&self, stores: Stores) -> impl Future<Output = Stores> + Send;

    /// The time in the tests. The harness of a store that counts TTLs by a clock of its own returns the real
    /// time, so that unexpired rows stay; otherwise any fixed time suffices.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(2_000_000_000)
    }

    /// Whether [`Upkeep::sweep`](crate::Upkeep::sweep) deletes expired rows. `false` for a store whose
    /// rows expire by a TTL.
    fn sweeps(&self) -> bool {
        true
    }

    /// Limit of the rows that a behaviour may write to reach a bound. Behaviours that need more are skipped.
    fn rows(&self) -> usize {
        20_000
    }
}

/// Makes a `#[tokio::test]` of every behaviour. The expression makes the [`Harness`] of each.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:expr) => {
        $crate::conformance_suite! { @nouns $harness;
            documents {
                superusers_start_empty_at_revision_zero
                one_of_two_concurrent_superuser_removals_loses
                superusers_swap_requires_the_stored_revision
                removals_under_way_are_returned_as_stored
                keys_start_empty_at_revision_zero
                keys_are_returned_as_stored
                one_of_many_concurrent_first_keys_wins
            }
            everything {
                records_never_stored_are_absent
                text_is_returned_unchanged
                returned_changes_survive_a_restart
                concurrent_writers_of_all_kinds_lose_nothing
            }
            grants {
                effective_resolves_roles_and_direct_permissions
                permission_by_two_roles_and_directly_is_listed_once
                repeated_give_or_take_changes_nothing
                concurrent_gives_lose_nothing
                holders_are_listed_page_by_page
                deleted_role_is_removed_from_all_holders
                deleted_permission_is_removed_from_holders_and_roles
                recreated_role_or_permission_has_no_holders
                nonexistent_user_has_no_permissions
                grants_of_a_user_are_limited
                deleted_roles_leave_room_for_more_grants
            }
            ledger {
                repeated_entries_are_stored_once
                entries_may_arrive_out_of_order
                entries_beyond_the_head_are_readable
                late_entry_of_an_ended_fact_is_readable
                heads_never_go_back
                ranges_end_at_their_limit
                origins_do_not_mix
                every_kind_of_fact_is_returned
                concurrent_appends_lose_nothing
            }
            logins {
                logins_are_listed_newest_first_page_by_page
                login_recorded_twice_is_stored_once
                histories_do_not_mix
                logins_of_a_user_are_limited
                place_is_known_for_its_account_since_its_last_note
                places_of_an_account_are_limited
                place_is_swept_after_its_retention
            }
            permissions {
                permissions_are_found_and_listed_by_name
                taken_permission_name_is_rejected
                one_of_many_permissions_with_one_name_is_created
                permission_description_is_changed_and_removed
                deleted_permission_is_absent
                permissions_are_limited
            }
            roles {
                roles_are_found_and_listed_by_name
                taken_role_name_is_rejected
                one_of_many_roles_with_one_name_is_created
                described_role_keeps_its_permissions
                repeated_add_or_remove_of_a_permission_changes_nothing
                deleted_permission_is_not_added_to_a_role
                concurrent_changes_of_one_role_lose_nothing
                deleted_role_is_absent
                permissions_of_a_role_are_limited
                roles_are_limited
                name_against_the_rules_is_served_like_any_other
            }
            sessions {
                session_is_returned_as_opened
                session_opened_twice_is_stored_once
                rotation_requires_the_live_token
                rotation_may_keep_the_live_token
                latest_session_includes_the_last_rotation
                one_of_a_hundred_concurrent_rotations_wins
                rotations_of_different_sessions_do_not_conflict
                session_beyond_the_cap_ends_the_oldest
                sessions_opened_concurrently_stay_below_the_cap
                ended_session_is_absent
                ended_session_leaves_room
                end_older_keeps_sessions_of_the_version_and_above
                sessions_are_listed_newest_first_page_by_page
                session_pages_are_stable_while_another_begins
                sessions_of_different_users_do_not_mix
            }
            upkeep {
                open_store_answers_a_ping
                sweep_removes_only_expired_rows
                sweep_stops_at_its_limit_and_continues_later
                swept_session_leaves_room
                head_lives_as_long_as_its_last_entry
                refreshed_session_is_not_swept_at_its_old_expiry
            }
            users {
                user_is_returned_as_created
                user_created_twice_is_stored_once
                email_is_unique_across_letter_cases
                one_of_fifty_users_with_one_email_is_created
                changed_email_moves_the_claim
                change_to_a_taken_email_changes_nothing
                email_may_change_its_letter_case
                replacement_requires_the_previous_revision
                one_of_many_concurrent_replacements_wins
                one_of_many_users_changing_to_one_email_gets_it
                deleted_user_is_absent_with_all_its_rows
                deleted_user_frees_its_email
                users_are_listed_by_id_page_by_page
                user_pages_are_stable_while_another_registers
                spellings_of_one_email_find_one_user
                user_against_the_rules_is_served_like_any_other
                current_claim_needs_no_repair
                check_reports_rows_against_the_rules
                user_with_many_rows_is_deleted_with_all_of_them
            }
        }
    };
    (@nouns $harness:expr; $($noun:ident $behaviours:tt)*) => {$(
        mod $noun {
            use super::*;
            $crate::conformance_suite! { @behaviours $harness; $noun $behaviours }
        }
    )*};
    (@behaviours $harness:expr; $noun:ident { $($behaviour:ident)* }) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $behaviour() {
            $crate::conformance::$noun::$behaviour(&$harness).await;
        }
    )*};
}
