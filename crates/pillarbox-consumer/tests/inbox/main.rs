//! Servers ring: the inbox on real Postgres servers, with both drivers: every row of the rule, crashes at every step,
//! two owners, and the same answers as the SQL functions.

mod agreement;
mod crashes;
mod owners;
mod parking;
mod rule;
mod site;
mod waits;

/// The same check for both drivers, each a test of its own.
macro_rules! with_both_drivers {
    ($($check:ident),+ $(,)?) => {
        mod by_tokio_postgres {
            $(#[test]
            fn $check() {
                crate::block_on(super::$check::<crate::site::TokioPostgres>());
            })+
        }
        mod by_sqlx {
            $(#[test]
            fn $check() {
                crate::block_on(super::$check::<crate::site::Sqlx>());
            })+
        }
    };
}
pub(crate) use with_both_drivers;

fn block_on(check: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(check);
}
