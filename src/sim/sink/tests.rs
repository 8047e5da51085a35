//! The sink over real connections.

use super::*;
use crate::sim::client::{Client, ClientError};

const SOON: Duration = Duration::from_secs(20);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn post(sink: &Sink, path: &str, webhook_id: &str) -> Result<crate::sim::client::Answer, ClientError> {
    Client::new(sink.address()).send("POST", path, &[("webhook-id", webhook_id)], Bytes::from_static(b"{}")).await
}

#[tokio::test]
async fn an_envelope_is_recorded_with_its_ids_its_exact_payload_and_its_verdict() {
    let sink = Sink::start().await.expect("a port");
    sink.expect_signed("/in", SECRET);
    let body = br#"{"eventId":"evt_1","deliveryId":"5f2c","connectionId":"in_1","orgId":"o","provider":"github","eventType":"push",
        "eventKey":null,"workspaceId":"w","integrationId":"int_1","resourceId":"res_1","receivedAt":1,"payload":{ "n" : 1e400, "s":"\ud800" }}"#;
    let at_s = SystemClock.now().0 / 1000;
    let signature =
        standardwebhooks::Webhook::new(SECRET).expect("a secret").sign("dlv_1", at_s, body).expect("signable");
    let (at_s, mut client) = (at_s.to_string(), Client::new(sink.address()));
    let headers =
        [("webhook-id", "dlv_1"), ("webhook-timestamp", at_s.as_str()), ("webhook-signature", signature.as_str())];
    let answer = client.send("POST", "/in", &headers, Bytes::from_static(body)).await.expect("an answer");
    assert_eq!(answer.status, 200);

    let received = sink.wait_for(1, SOON).await.expect("recorded before it was answered");
    let ids = received[0].envelope.as_ref().expect("an envelope");
    assert_eq!((ids.event_id.as_str(), ids.delivery_id.as_str(), ids.workspace_id.as_str()), ("evt_1", "5f2c", "w"));
    assert_eq!((received[0].webhook_id.as_str(), received[0].signature), ("dlv_1", SignatureVerdict::Valid));
    assert_eq!(received[0].payload(), Some(br#"{ "n" : 1e400, "s":"\ud800" }"#.as_slice()));
}

#[tokio::test]
async fn a_path_fails_the_first_tries_of_each_delivery_and_then_succeeds() {
    let sink = Sink::start().await.expect("a port");
    let failure = Behaviour::retry_after(503, 7);
    sink.behave("/in", Behaviour::FailFirst { times: 2, with: Box::new(failure) });
    let mut statuses = Vec::new();
    for webhook_id in ["dlv_1", "dlv_1", "dlv_2", "dlv_1", "dlv_2", "dlv_2"] {
        let answer = post(&sink, "/in", webhook_id).await.expect("an answer");
        assert_eq!(answer.headers.get("retry-after"), (answer.status == 503).then_some("7"));
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [503, 503, 503, 200, 503, 200]);
    assert_eq!(
        sink.received().iter().map(|received| received.answered).collect::<Vec<_>>(),
        statuses.iter().map(|s| Some(*s)).collect::<Vec<_>>()
    );
    assert_eq!(post(&sink, "/other", "dlv_1").await.expect("an answer").status, 200, "paths are apart");
}

#[tokio::test]
async fn turns_are_taken_in_order_and_the_last_one_stays() {
    let sink = Sink::start().await.expect("a port");
    sink.behave(
        "/in",
        Behaviour::InTurn(vec![Behaviour::status_only(410), Behaviour::redirect("http://elsewhere.example/")]),
    );
    assert_eq!(post(&sink, "/in", "dlv_1").await.expect("an answer").status, 410);
    for _ in 0..2 {
        let answer = post(&sink, "/in", "dlv_1").await.expect("an answer");
        assert_eq!((answer.status, answer.headers.get("location")), (302, Some("http://elsewhere.example/")));
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_an_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::Reset);
    let mut raw = tokio::net::TcpStream::connect(sink.address()).await.expect("connected");
    raw.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.expect("written");
    let error = raw.read(&mut [0; 64]).await.expect_err("the connection is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(sink.received()[0].answered, None);
}

#[tokio::test]
async fn a_hanging_path_records_and_never_answers_while_another_answers() {
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::Hang);
    let mut client = Client::new(sink.address()).with_limit(Duration::from_millis(200));
    let error = client.send("POST", "/in", &[], Bytes::new()).await.expect_err("no answer");
    assert!(matches!(error, ClientError::TimedOut(_)), "{error}");
    assert_eq!(sink.wait_for(1, SOON).await.expect("recorded").len(), 1);
    assert_eq!(post(&sink, "/other", "dlv_1").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_flood_is_as_long_as_told_and_a_drip_does_not_end() {
    let sink = Sink::start().await.expect("a port");
    sink.behave("/flood", Behaviour::After(Duration::from_millis(5), Box::new(Behaviour::Flood(1_000_003))));
    assert_eq!(post(&sink, "/flood", "dlv_1").await.expect("an answer").body.len(), 1_000_003);

    sink.behave("/drip", Behaviour::Drip(Duration::from_millis(1)));
    let mut client = Client::new(sink.address()).with_limit(Duration::from_millis(200));
    assert!(matches!(client.send("POST", "/drip", &[], Bytes::new()).await, Err(ClientError::TimedOut(_))));
}

#[tokio::test]
async fn waiting_is_rewarded_by_the_arrival_and_otherwise_says_what_was_missing() {
    let sink = Sink::start().await.expect("a port");
    let (waited, posted) = tokio::join!(sink.wait_for(1, SOON), post(&sink, "/in", "dlv_1"));
    assert_eq!(waited.expect("arrived")[0].webhook_id, "dlv_1");
    posted.expect("an answer");
    let error = sink.wait_for(2, Duration::from_millis(20)).await.expect_err("only one came");
    assert!(error.to_string().contains("2 requests"), "{error}");
}

#[tokio::test]
async fn followers_see_every_request_even_when_nothing_is_kept() {
    let sink = Sink::start_keeping(Keep::Nothing).await.expect("a port");
    let mut arrivals = sink.follow();
    post(&sink, "/in", "dlv_1").await.expect("an answer");
    let received = arrivals.recv().await.expect("followed");
    assert_eq!((received.webhook_id.as_str(), received.body.len()), ("dlv_1", 0));
    assert_eq!((sink.total(), sink.received().len()), (1, 0));
}

#[tokio::test]
async fn garbage_and_the_drips_of_a_head_are_no_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let sink = Sink::start().await.expect("a port");
    sink.behave("/garbage", Behaviour::Garbage("\0SSH-2.0-no http\r\n".to_owned()));
    sink.behave("/drip", Behaviour::DripHead(Duration::from_millis(1)));
    let mut raw = tokio::net::TcpStream::connect(sink.address()).await.expect("connected");
    raw.write_all(b"POST /garbage HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.expect("written");
    let mut said = Vec::new();
    raw.read_to_end(&mut said).await.expect("an end");
    assert_eq!(said, b"\0SSH-2.0-no http\r\n");

    let mut raw = tokio::net::TcpStream::connect(sink.address()).await.expect("connected");
    raw.write_all(b"POST /drip HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.expect("written");
    let mut head = [0; 30];
    raw.read_exact(&mut head).await.expect("drop by drop");
    assert_eq!(&head, b"HTTP/1.1 200 OK\r\nx-drip: .....");
    assert!(sink.received().iter().all(|received| received.answered.is_none()));
}

#[tokio::test]
async fn a_try_beside_an_open_one_is_seen_and_one_after_it_is_not() {
    let sink = Sink::start().await.expect("a port");
    sink.behave("/in", Behaviour::InTurn(vec![Behaviour::Hang, Behaviour::ok()]));
    let hanging = Client::new(sink.address());
    let gone = {
        let mut hanging = hanging.with_limit(Duration::from_mins(1));
        tokio::spawn(async move { hanging.send("POST", "/in", &[("webhook-id", "dlv_1")], Bytes::new()).await.is_ok() })
    };
    sink.wait_for(1, SOON).await.expect("it hangs");
    post(&sink, "/in", "dlv_2").await.expect("an answer");
    post(&sink, "/in", "dlv_1").await.expect("an answer");
    gone.abort();
    // The sink hears of it when the connection ends.
    while sink.shared.ledger().rules["/in"].open.contains_key("dlv_1") {
        tokio::task::yield_now().await;
    }
    post(&sink, "/in", "dlv_1").await.expect("an answer");
    let beside: Vec<_> = sink.received().iter().map(|received| (received.beside, received.open_here)).collect();
    assert_eq!(beside, [(0, 1), (0, 2), (1, 2), (0, 1)]);
}

#[tokio::test]
async fn deliveries_are_remembered_only_where_their_tries_are_counted() {
    let fails_first = Behaviour::FailFirst { times: 1, with: Box::new(Behaviour::status_only(503)) };
    for keep in [Keep::Nothing, Keep::Everything] {
        let sink = Sink::start_keeping(keep).await.expect("a port");
        for (behaviour, remembered) in [
            (Behaviour::status_only(202), 0),
            (Behaviour::InTurn(vec![Behaviour::status_only(500), Behaviour::ok()]), 0),
            (fails_first.clone(), 2),
            (Behaviour::InTurn(vec![Behaviour::ok(), fails_first.clone()]), 2),
            (Behaviour::After(Duration::ZERO, Box::new(fails_first.clone())), 2),
        ] {
            sink.behave("/in", behaviour.clone());
            for webhook_id in ["dlv_1", "dlv_2", "dlv_2"] {
                post(&sink, "/in", webhook_id).await.expect("an answer");
            }
            assert_eq!(sink.shared.ledger().rules["/in"].seen.len(), remembered, "{keep:?} {behaviour:?}");
        }
    }
}
