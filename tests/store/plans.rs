//! The planner is asked: every statement that routes, claims or is paid for by every webhook uses an index.

use signalbox::store::hot_statements;
use sqlx::{AssertSqlSafe, Row as _};

use crate::{TestStore, on_postgres, on_sqlite, postgres_connection, sqlite_connection};

#[tokio::test(flavor = "multi_thread")]
async fn no_hot_statement_scans_a_table_on_sqlite() {
    on_sqlite(async |store: TestStore| {
        let mut connection = sqlite_connection(&store.url).await;
        for (name, sql) in hot_statements("sqlite") {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::raw_sql(explain).fetch_all(&mut connection).await.expect(name);
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let uses_indexes = steps.iter().any(|step| step.starts_with("SEARCH"));
            // Small things made by the statement itself are scanned: lists of ids, and what a recursion found.
            let scans_a_table = steps.iter().any(|step| {
                step.starts_with("SCAN")
                    && step != "SCAN v"
                    && !["json_each", "waiting", "newest", "CONSTANT ROW"].iter().any(|ok| step.contains(ok))
            });
            assert!(uses_indexes && !scans_a_table, "{name}: {steps:#?}");
        }
    })
    .await;
}

/// The parts of `list_unrouted`, with the index each is to have.
const UNROUTED: [(&str, &str); 3] = [
    (
        "gw_events_unrouted_of_installation",
        "SELECT e.resources FROM gw_events e WHERE e.outcome = 'unrouted' AND e.provider = 'github' \
         AND e.installation_id = 'in_1' AND e.received_at >= 7 AND e.id > 'evt_0' ORDER BY e.id LIMIT 100",
    ),
    (
        "gw_events_unrouted_of_account",
        "SELECT e.resources FROM gw_events e WHERE e.outcome = 'unrouted' AND e.provider = 'github' \
         AND e.installation_id IS NULL AND e.external_id = '4711' AND e.received_at >= 7 AND e.id > 'evt_0' \
         ORDER BY e.id LIMIT 100",
    ),
    (
        "gw_events_unrouted_of_account",
        "SELECT e.resources FROM gw_events e WHERE e.outcome = 'unrouted' AND e.provider = 'github' \
         AND e.installation_id IS NULL AND e.external_id IS NULL AND e.received_at >= 7 AND e.id > 'evt_0' \
         ORDER BY e.external_id, e.id LIMIT 100",
    ),
];

/// Of 50 installations and 50 accounts that are not known, unrouted and routed events.
const MANY_EVENTS: &str = "INSERT INTO gw_events (id, provider, provider_delivery_id, wire_type, installation_id, external_id, \
     resources, outcome, possible_replay, held, received_at, correlation_id, headers, decision, payload_encoding, \
     payload_bytes, payload) \
     WITH RECURSIVE n (i) AS (SELECT CAST(100001 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 120000) \
     SELECT 'evt_' || CAST(i AS TEXT), 'github', CAST(i AS TEXT), 'push', CASE WHEN i % 4 < 2 THEN 'in_' || CAST(i % 50 AS TEXT) END, \
     'x' || CAST(i % 50 AS TEXT), '[]', CASE WHEN i % 3 > 0 THEN 'unrouted' ELSE 'ignored' END, false, false, 7, 'c', '{}', '{}', \
     'raw', 0, '' FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn unrouted_events_are_read_in_their_order_on_sqlite() {
    on_sqlite(async |store: TestStore| {
        let mut connection = sqlite_connection(&store.url).await;
        for (index, sql) in UNROUTED {
            let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::raw_sql(explain).fetch_all(&mut connection).await.expect(sql);
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let [step] = &*steps else { panic!("it is not sorted: {steps:#?}") };
            assert!(step.contains(index) && step.contains("id>?"), "{steps:#?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unrouted_events_are_read_in_their_order_on_postgres() {
    on_postgres(async |store: TestStore| {
        let mut connection = postgres_connection(&store.url).await;
        sqlx::raw_sql(MANY_EVENTS).execute(&mut connection).await.expect("inserted");
        sqlx::raw_sql("ANALYZE gw_events").execute(&mut connection).await.expect("analyzed");
        for (index, sql) in UNROUTED {
            let explain = AssertSqlSafe(format!("EXPLAIN {sql}"));
            let plan = sqlx::raw_sql(explain).fetch_all(&mut connection).await.expect(sql);
            let steps: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            assert!(steps.iter().any(|step| step.contains(index)), "{steps:#?}");
            assert!(!steps.iter().any(|step| step.contains("Sort")), "{steps:#?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_written_by_the_deliveries_ids_whatever_the_planner_thinks_of_the_backlog() {
    on_postgres(async |store: TestStore| {
        let mut connection = postgres_connection(&store.url).await;
        // As the writer has it.
        let settings = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET cpu_index_tuple_cost = 1; SET plan_cache_mode = force_generic_plan";
        sqlx::raw_sql(settings).execute(&mut connection).await.expect("settings");
        let (_, sql) = hot_statements("postgres")
            .into_iter()
            .find(|(name, _)| *name == "record_attempts: the results")
            .expect("it is one of them");
        sqlx::raw_sql(AssertSqlSafe(format!("PREPARE results AS {sql}"))).execute(&mut connection).await.expect(sql);
        let nulls = ["NULL"; 8].join(", ");
        let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE results({nulls})"));
        let plan = sqlx::raw_sql(explain).fetch_all(&mut connection).await.expect("a plan");
        let steps: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        assert!(steps.iter().any(|step| step.contains("gw_deliveries_pkey")), "{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("gw_deliveries_due")), "{steps:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hot_statement_needs_to_scan_a_table_on_postgres() {
    on_postgres(async |store: TestStore| {
        let mut connection = postgres_connection(&store.url).await;
        // The tables are empty, and the planner would rightly scan them. Without that way out, a scan means that there is
        // no index that serves.
        sqlx::raw_sql("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
            .execute(&mut connection)
            .await
            .expect("settings");
        for (name, sql) in hot_statements("postgres") {
            let parameters = (1..=9).filter(|number| sql.contains(&format!("${number}"))).count();
            let prepare = AssertSqlSafe(format!("DEALLOCATE ALL; PREPARE hot AS {sql}"));
            sqlx::raw_sql(prepare).execute(&mut connection).await.expect(name);
            let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE hot({})", vec!["NULL"; parameters].join(", ")));
            let plan = sqlx::raw_sql(explain).fetch_all(&mut connection).await.expect(name);
            let steps: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
            let uses_indexes = steps.iter().any(|step| step.contains("Index") || step.contains("Bitmap"));
            let scans_a_table = steps.iter().any(|step| step.contains("Seq Scan"));
            assert!(uses_indexes && !scans_a_table, "{name}: {steps:#?}");
        }
    })
    .await;
}
