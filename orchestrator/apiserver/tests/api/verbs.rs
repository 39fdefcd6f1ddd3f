//! What each verb does, asked in process.

use crate::support::Server;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, labels: Value, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_created_read_changed_and_deleted() {
    let server = Server::start().await;
    let created = server.ask("POST", MAPS, map("a", json!({}), json!({"k": "1"}))).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let meta = &created.body["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert!(meta["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    let version: u64 = meta["resourceVersion"].as_str().unwrap().parse().unwrap();

    let got = server.ask("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((got.code, &got.body), (200, &created.body));

    let again = server.ask("POST", MAPS, map("a", json!({}), json!({}))).await;
    assert_eq!(
        (again.code, again.body["message"].as_str().unwrap()),
        (409, "configmaps \"a\" already exists")
    );

    let mut changed = got.body.clone();
    changed["data"]["k"] = "2".into();
    let updated = server.ask("PUT", &format!("{MAPS}/a"), changed.clone()).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert!(updated.body["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > version);
    assert_eq!(updated.body["metadata"]["uid"], meta["uid"]);

    let stale = server.ask("PUT", &format!("{MAPS}/a"), changed).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));

    let same = server.ask("PUT", &format!("{MAPS}/a"), updated.body.clone()).await;
    assert_eq!(same.body["metadata"]["resourceVersion"], updated.body["metadata"]["resourceVersion"]);

    let deleted = server.ask("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((deleted.code, &deleted.body["status"]), (200, &json!("Success")));
    let gone = server.ask("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!((gone.code, gone.body["message"].as_str().unwrap()), (404, "configmaps \"a\" not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_say_what_is_wrong() {
    let server = Server::start().await;
    let cases = [
        (
            "POST",
            "/api/v1/namespaces/none/configmaps",
            map("a", json!({}), json!({})),
            404,
            "namespaces \"none\" not found",
        ),
        ("POST", MAPS, map("A", json!({}), json!({})), 422, "ConfigMap \"A\" is invalid: metadata.name"),
        (
            "POST",
            MAPS,
            json!({"kind": "Secret", "apiVersion": "v1"}),
            400,
            "cannot be handled as a ConfigMap",
        ),
        ("POST", MAPS, Value::Null, 400, "the request body is empty"),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/x",
            map("y", json!({}), json!({})),
            400,
            "does not match the name on the URL",
        ),
        ("GET", "/api/v1/nothing", Value::Null, 404, "could not find the requested resource"),
        ("GET", "/apis/none/v1", Value::Null, 404, "could not find the requested resource"),
        ("GET", "/api/v1/configmaps?labelSelector=a+in", Value::Null, 400, "unable to parse requirement"),
        ("GET", "/api/v1/configmaps?fieldSelector=a.b=c", Value::Null, 400, "field label not supported: a.b"),
        ("GET", "/api/v1/configmaps?continue=x", Value::Null, 400, "continue key is not valid"),
        ("DELETE", "/api/v1/namespaces/default", Value::Null, 403, "may not be deleted"),
    ];
    for (method, path, body, code, message) in cases {
        let answer = server.ask(method, path, body).await;
        let text = answer.body["message"].as_str().unwrap_or_default();
        assert!(
            answer.code == code && text.contains(message),
            "{method} {path}: {} {}",
            answer.code,
            answer.body
        );
        assert_eq!(answer.body["kind"], "Status");
    }
    let anonymous = server.ask_as("", &[], "GET", MAPS, &[], Value::Null).await;
    assert_eq!((anonymous.code, &anonymous.body["reason"]), (401, &json!("Unauthorized")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let server = Server::start().await;
    let mut body = map("", json!({}), json!({}));
    body["metadata"] = json!({"generateName": "x-"});
    let created = server.ask("POST", MAPS, body).await;
    let name = created.body["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    let dry = server.ask("POST", &format!("{MAPS}?dryRun=All"), map("dry", json!({}), json!({}))).await;
    assert_eq!((dry.code, dry.body["metadata"].get("resourceVersion")), (201, None));
    assert_eq!(server.ask("GET", &format!("{MAPS}/dry"), Value::Null).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_selectors_pages_and_states() {
    let server = Server::start().await;
    for index in 0..7 {
        let labels = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        server.ask("POST", MAPS, map(&format!("m{index}"), labels, json!({}))).await;
    }
    let names = |body: &Value| {
        let items = body["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let even = server.ask("GET", &format!("{MAPS}?labelSelector=parity%3Deven"), Value::Null).await;
    assert_eq!(names(&even.body), "m0 m2 m4 m6");
    let one = server.ask("GET", "/api/v1/configmaps?fieldSelector=metadata.name%3Dm3", Value::Null).await;
    assert_eq!(names(&one.body), "m3");

    let first = server.ask("GET", &format!("{MAPS}?limit=3"), Value::Null).await;
    assert_eq!(
        (names(&first.body).as_str(), &first.body["metadata"]["remainingItemCount"]),
        ("m0 m1 m2", &json!(4))
    );
    // What changes between pages is not seen: a list is of one state.
    server.ask("DELETE", &format!("{MAPS}/m5"), Value::Null).await;
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    let second = server.ask("GET", &format!("{MAPS}?limit=3&continue={token}"), Value::Null).await;
    assert_eq!(names(&second.body), "m3 m4 m5");
    assert_eq!(second.body["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
    let token = second.body["metadata"]["continue"].as_str().unwrap();
    let third = server.ask("GET", &format!("{MAPS}?limit=3&continue={token}"), Value::Null).await;
    assert_eq!((names(&third.body).as_str(), third.body["metadata"].get("continue")), ("m6", None));

    let version = first.body["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.ask("GET", &exact, Value::Null).await.body), "m0 m1 m2 m3 m4 m5 m6");
    let now = server.ask("GET", MAPS, Value::Null).await;
    let version = now.body["metadata"]["resourceVersion"].as_str().unwrap();
    let newer = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&server.ask("GET", &newer, Value::Null).await.body), "m0 m1 m2 m3 m4 m6");

    let all = server.ask("DELETE", &format!("{MAPS}?labelSelector=parity=odd"), Value::Null).await;
    assert_eq!(all.code, 200, "{}", all.body);
    assert_eq!(names(&server.ask("GET", MAPS, Value::Null).await.body), "m0 m2 m4 m6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_what_their_selector_lets_through() {
    let server = Server::start().await;
    server.ask("POST", MAPS, map("a", json!({"l": "x"}), json!({}))).await;
    let mut all = server.watch(&format!("{MAPS}?watch=1")).await;
    let mut some = server.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Dx")).await;
    assert_eq!((all.brief().await, some.brief().await), ("ADDED a".into(), "ADDED a".into()));
    let created = server.ask("POST", MAPS, map("b", json!({}), json!({}))).await;
    server.ask("PUT", &format!("{MAPS}/a"), map("a", json!({"l": "y"}), json!({}))).await;
    server.ask("PUT", &format!("{MAPS}/b"), map("b", json!({"l": "x"}), json!({}))).await;
    server.ask("DELETE", &format!("{MAPS}/b"), Value::Null).await;
    for expect in ["ADDED b", "MODIFIED a", "MODIFIED b", "DELETED b"] {
        assert_eq!(all.brief().await, expect);
    }
    for expect in ["DELETED a", "ADDED b", "DELETED b"] {
        assert_eq!(some.brief().await, expect);
    }
    let version = created.body["metadata"]["resourceVersion"].as_str().unwrap();
    let mut replay = server.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    for expect in ["MODIFIED a", "MODIFIED b", "DELETED b"] {
        assert_eq!(replay.brief().await, expect);
    }
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streaming = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(streaming.brief().await, "ADDED a");
    let bookmark = streaming.next().await;
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true",
        "{bookmark}"
    );
    let past =
        server.ask("GET", &format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1"), Value::Null).await;
    assert!(past.code == 410 || past.code == 200, "{}", past.body);
    let mut short = server.watch(&format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1")).await;
    assert_eq!(short.brief().await, "ADDED a");
    assert_eq!(short.next_or_end().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_in_other_shapes() {
    let server = Server::start().await;
    server.ask("POST", MAPS, map("a", json!({}), json!({"k": "v"}))).await;
    let ask = |accept: &'static str, path: String| {
        let server = &server;
        async move {
            server
                .ask_as("admin", &["system:masters"], "GET", &path, &[("accept", accept)], Value::Null)
                .await
        }
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io", MAPS.into()).await.body;
    assert_eq!((&table["kind"], &table["columnDefinitions"][0]["name"]), (&json!("Table"), &json!("Name")));
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial =
        ask("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", format!("{MAPS}/a")).await.body;
    assert_eq!((&partial["kind"], partial.get("data")), (&json!("PartialObjectMetadata"), None));
    let yaml = ask("application/yaml", format!("{MAPS}/a")).await;
    assert!(yaml.bytes.windows(15).any(|w| w == b"kind: ConfigMap"), "{:?}", yaml.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_hold_an_object() {
    let server = Server::start().await;
    let mut body = map("held", json!({}), json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.ask("POST", MAPS, body).await;
    let marked = server.ask("DELETE", &format!("{MAPS}/held"), Value::Null).await;
    assert_eq!(marked.body["metadata"]["deletionGracePeriodSeconds"], 0, "{}", marked.body);
    let mut body = marked.body;
    body["metadata"]["finalizers"] = json!([]);
    assert_eq!(server.ask("PUT", &format!("{MAPS}/held"), body).await.code, 200);
    assert_eq!(server.ask("GET", &format!("{MAPS}/held"), Value::Null).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_of_the_future_is_told_apart() {
    let server = Server::start().await;
    let answer = server.ask("GET", &format!("{MAPS}?resourceVersion=999999999"), Value::Null).await;
    assert_eq!(
        (answer.code, &answer.body["details"]["causes"][0]["reason"]),
        (504, &json!("ResourceVersionTooLarge")),
        "{}",
        answer.body
    );
}
