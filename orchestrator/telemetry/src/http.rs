//! The routes that every process serves: `/metrics`, `/livez`, `/readyz`, `/healthz`.

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{
    Registry,
    health::{Health, Report},
};

/// Metrics and health; merge it into the process's own router.
pub fn router<S: Clone + Send + Sync + 'static>(registry: Registry, health: Health) -> Router<S> {
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(registry);
    Router::new()
        .route("/livez", get(livez))
        .route("/livez/{check}", get(livez_one))
        .route("/readyz", get(readyz))
        .route("/readyz/{check}", get(readyz_one))
        // Kubernetes' older name; its clients mean readiness by it.
        .route("/healthz", get(readyz))
        .route("/healthz/{check}", get(readyz_one))
        .with_state(health)
        .merge(metrics)
}

async fn metrics(State(registry): State<Registry>) -> Response {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], registry.render()).into_response()
}

async fn livez(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    respond(health.live(), query.as_deref())
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    respond(health.readiness(), query.as_deref())
}

async fn livez_one(
    State(health): State<Health>,
    Path(check): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    respond_one(health.live(), &check, query.as_deref())
}

async fn readyz_one(
    State(health): State<Health>,
    Path(check): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    respond_one(health.readiness(), &check, query.as_deref())
}

fn respond_one(report: Report, check: &str, query: Option<&str>) -> Response {
    match report.only(check) {
        Some(report) => respond(report, query),
        None => (StatusCode::NOT_FOUND, text_headers(), format!("there is no check named {check}\n"))
            .into_response(),
    }
}

/// `ok`, or every line when asked to or when something failed.
fn respond(mut report: Report, query: Option<&str>) -> Response {
    let question = Question::parse(query.unwrap_or_default());
    let unknown = report.exclude(&question.exclude);
    let status = if report.passed() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let body = if report.passed() && !question.verbose {
        "ok".to_owned()
    } else {
        let warning = if unknown.is_empty() {
            String::new()
        } else {
            format!("warn: some health checks cannot be excluded: no matches for {unknown:?}\n")
        };
        warning + &report.verbose()
    };
    (status, text_headers(), body).into_response()
}

fn text_headers() -> [(HeaderName, &'static str); 3] {
    [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
    ]
}

/// What the query asks for: `verbose` (with any value or none) and any number of `exclude=NAME`.
#[derive(Default)]
struct Question {
    verbose: bool,
    exclude: Vec<String>,
}

impl Question {
    /// By hand, because names of checks hold nothing that a URL escapes.
    fn parse(query: &str) -> Self {
        let mut question = Self::default();
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("verbose", _) => question.verbose = true,
                ("exclude", name) => question.exclude.push(name.to_owned()),
                _ => {}
            }
        }
        question
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;
    use crate::health::Scope;

    async fn ask(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("valid request");
        let response = router.clone().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn answers_as_kubernetes_does() {
        let registry = Registry::new();
        registry.counter("pods_total", "Pods.").inc();
        let health = Health::new();
        health.check("store", Scope::Ready, || Err("etcd is down".into()));
        let router = router(registry, health);
        for (path, status, body) in [
            ("/livez", 200, "ok"),
            ("/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"),
            (
                "/readyz",
                500,
                "[+]ping ok\n[-]store failed: etcd is down\n[+]shutdown ok\nreadyz check failed\n",
            ),
            ("/readyz?exclude=store", 200, "ok"),
            ("/readyz?verbose=true&exclude=store", 200, "[+]ping ok\n[+]shutdown ok\nreadyz check passed\n"),
            ("/readyz/store", 500, "[-]store failed: etcd is down\nreadyz check failed\n"),
            ("/readyz/ping", 200, "ok"),
            ("/healthz/nope", 404, "there is no check named nope\n"),
        ] {
            assert_eq!(ask(&router, path).await, (status, body.to_owned()), "{path}");
        }
        let (status, body) = ask(&router, "/metrics").await;
        assert!(status == 200 && body.contains("pods_total 1"), "{body}");
    }
}
