//! What every store must do: one set of behaviours, run on each.
//!
//! A store's crate implements [`Harness`] and says, in a test of its own:
//!
//! ```ignore
//! schema::conformance_suite!(Embedded::new());
//! ```
//!
//! which makes one `#[tokio::test]` a behaviour. Each opens a store with nothing in it. Nothing here
//! asks a clock or draws a random number: times start at [`Harness::now`], ids are counted.

#![allow(missing_docs, reason = "the name of a behaviour is its sentence")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a behaviour that fails panics: it is a test")]

use std::{future::Future, time::Duration};

use crate::{store::Stores, time::Timestamp};

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

/// How long after [`Harness::now`] everything has ended that a behaviour wants to have ended.
pub const LONG: Duration = Duration::from_secs(400 * 24 * 3600);

/// How the suite gets at a store. Make one for each behaviour.
pub trait Harness: Sync {
    /// A store with nothing in it. Over a network a cleared one will do.
    fn open(&self) -> impl Future<Output = Stores> + Send;

    /// The same store, closed and opened again. Over a network a new connection will do.
    fn restart(&self, stores: Stores) -> impl Future<Output = Stores> + Send;

    /// The time in the tests. A store that counts down times to live by a clock of its own gives
    /// the real time, so that what should be alive is; else any fixed time will do.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(2_000_000_000)
    }

    /// Whether [`Upkeep::sweep`](crate::store::Upkeep::sweep) is what forgets. `false` for a store
    /// that forgets by itself.
    fn sweeps(&self) -> bool {
        true
    }

    /// How many rows a behaviour may write to reach a bound. Behaviours that need more are skipped.
    fn rows(&self) -> usize {
        20_000
    }
}

/// Makes a `#[tokio::test]` of every behaviour; the expression makes the [`Harness`] of each.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:expr) => {
        $crate::conformance_suite! { @nouns $harness;
            documents {
                superusers_begin_as_an_empty_set_at_revision_zero
                of_two_parallel_removals_of_a_superuser_one_loses
                a_swap_of_superusers_needs_the_revision_that_is_there
                losses_under_way_come_back_as_they_were_stored
                keys_begin_empty_at_revision_zero
                keys_come_back_as_they_were_stored
                of_many_first_keys_one_wins
            }
            everything {
                what_was_never_stored_is_absent
                text_comes_back_unchanged
                what_was_answered_survives_a_restart
                many_writers_of_all_kinds_lose_nothing
            }
            grants {
                effective_resolves_roles_and_direct_permissions
                a_permission_by_two_roles_and_directly_is_there_once
                giving_and_taking_twice_changes_nothing
                many_gives_at_once_lose_nothing
                holders_are_listed_page_by_page
                a_deleted_role_is_taken_from_all
                a_deleted_permission_is_taken_from_all_and_from_roles
                what_is_created_again_starts_with_nobody
                a_user_that_does_not_exist_may_do_nothing
                a_user_may_have_only_so_many_grants
                what_was_deleted_leaves_room_for_more_grants
            }
            ledger {
                entries_written_twice_are_there_once
                entries_may_come_out_of_order
                entries_beyond_the_head_are_readable
                an_entry_that_is_written_late_is_there
                heads_never_go_back
                ranges_end_at_their_limit
                origins_do_not_mix
                every_kind_of_fact_comes_back
                many_appends_at_once_lose_nothing
            }
            logins {
                logins_are_listed_newest_first_page_by_page
                a_login_recorded_twice_is_there_once
                histories_do_not_mix
                only_so_many_logins_are_kept
                a_place_is_known_for_its_account_since_its_last_note
                an_account_has_only_so_many_places
                a_place_is_swept_after_its_last_note
            }
            permissions {
                permissions_are_found_and_listed_by_name
                a_taken_permission_name_is_refused
                of_many_permissions_of_one_name_one_is_created
                a_description_is_changed_and_removed
                a_deleted_permission_is_gone
                there_may_be_only_so_many_permissions
            }
            roles {
                roles_are_found_and_listed_by_name
                a_taken_role_name_is_refused
                of_many_roles_of_one_name_one_is_created
                a_role_is_described_and_keeps_its_permissions
                adding_and_removing_a_permission_twice_changes_nothing
                a_deleted_permission_is_not_added_to_a_role
                many_changes_of_one_role_at_once_lose_nothing
                a_deleted_role_is_gone
                a_role_may_have_only_so_many_permissions
                there_may_be_only_so_many_roles
                a_name_that_no_rule_accepts_is_like_any_other
            }
            sessions {
                a_session_comes_back_as_it_was_opened
                a_session_opened_twice_is_there_once
                rotating_needs_the_live_token
                a_rotation_may_keep_the_live_token
                the_latest_of_a_session_is_what_was_answered_last
                of_a_hundred_rotations_at_once_one_wins
                rotations_of_different_sessions_do_not_disturb_each_other
                one_session_too_many_ends_the_oldest
                many_sessions_opened_at_once_stay_below_the_cap
                an_ended_session_is_absent
                an_ended_session_leaves_room
                ending_the_older_keeps_those_of_the_version_and_above
                sessions_are_listed_newest_first_page_by_page
                a_list_of_sessions_is_stable_while_one_more_begins
                sessions_of_different_users_do_not_mix
            }
            upkeep {
                a_store_that_is_open_answers
                the_sweep_removes_what_ended_and_nothing_else
                the_sweep_stops_at_its_limit_and_goes_on_next_time
                a_swept_session_leaves_room
                a_head_lives_as_long_as_its_last_entry
                a_session_that_was_refreshed_is_not_swept_at_its_old_end
            }
            users {
                a_user_comes_back_as_it_was_created
                a_user_created_twice_is_there_once
                an_email_is_unique_across_letter_cases
                of_fifty_users_with_one_email_one_is_created
                a_changed_email_moves_the_claim
                a_change_to_a_taken_email_changes_nothing
                an_email_may_change_its_letter_case
                replacing_needs_the_revision_before
                of_many_replacements_at_once_one_wins
                of_many_users_who_want_one_email_one_gets_it
                a_deleted_user_is_gone_with_all_that_was_its
                a_deleted_user_frees_its_email
                users_are_listed_by_id_page_by_page
                a_list_of_users_is_stable_while_one_more_registers
                spellings_of_one_email_are_one_user
                a_user_that_no_rule_accepts_is_like_any_other
                a_claim_of_today_needs_no_repair
                a_check_names_what_no_rule_accepts
                a_user_with_much_is_deleted_with_all_of_it
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
