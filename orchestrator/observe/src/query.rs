//! What somebody wants to see: the query of the stream's URL, and the flags of `bowsprit flows`.

use chrono::{DateTime, TimeDelta, Utc};
use form_urlencoded::{Serializer, parse};

use crate::flow::{Flow, Line, Party, Verdict};

/// Which flows, and from when to when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Which of them.
    pub filter: Filter,
    /// Also those to come, until the reader goes.
    pub follow: bool,
    /// Of what is remembered, only what came after this.
    pub since: Option<DateTime<Utc>>,
    /// Of what is remembered, only the newest so many.
    pub last: Option<usize>,
}

/// All that is said must hold; what is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One end is in this namespace.
    pub namespace: Option<String>,
    /// The same end is this pod, Service or node, or a pod whose name begins with this and a dash (a Deployment's pods).
    pub pod: Option<String>,
    /// Who sent: as `pod`, or `NAMESPACE/NAME`, or an address.
    pub from: Option<String>,
    /// Whom it was for, or who serves: as `from`.
    pub to: Option<String>,
    /// Only what was dropped.
    pub drops: bool,
}

/// A query that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}={value}`: {why}")]
pub struct BadQuery {
    key: String,
    value: String,
    why: &'static str,
}

// === impl Query ===

impl Query {
    /// Reads the query of a URL; times such as `5m` count back from `now`.
    pub fn parse(text: &str, now: DateTime<Utc>) -> Result<Self, BadQuery> {
        let mut query = Query::default();
        for (key, value) in parse(text.as_bytes()) {
            query.set(&key, &value, now).map_err(|why| BadQuery {
                key: key.into(),
                value: value.into(),
                why,
            })?;
        }
        Ok(query)
    }

    fn set(&mut self, key: &str, value: &str, now: DateTime<Utc>) -> Result<(), &'static str> {
        let name = || (!value.is_empty()).then(|| value.to_owned());
        match key {
            "namespace" => self.filter.namespace = name(),
            "pod" => self.filter.pod = name(),
            "from" => self.filter.from = name(),
            "to" => self.filter.to = name(),
            "drops" => self.filter.drops = flag(value)?,
            "follow" => self.follow = flag(value)?,
            "since" => self.since = Some(moment(value, now)?),
            "last" => self.last = Some(value.parse().map_err(|_| "it is no number of flows")?),
            _ => return Err("there is only namespace, pod, from, to, drops, follow, since and last"),
        }
        Ok(())
    }

    /// As the query of a URL.
    pub fn to_text(&self) -> String {
        let mut text = Serializer::new(String::new());
        let Query { filter: Filter { namespace, pod, from, to, drops }, follow, since, last } = self;
        for (key, value) in [("namespace", namespace), ("pod", pod), ("from", from), ("to", to)] {
            if let Some(value) = value {
                text.append_pair(key, value);
            }
        }
        for (key, _) in [("drops", drops), ("follow", follow)].iter().filter(|(_, set)| **set) {
            text.append_pair(key, "true");
        }
        if let Some(since) = since {
            text.append_pair("since", &client::objects::rfc3339_micros(*since));
        }
        if let Some(last) = last {
            text.append_pair("last", &last.to_string());
        }
        text.finish()
    }

    /// Whether what is remembered is asked for, not only what is to come.
    pub fn wants_past(&self) -> bool {
        !self.follow || self.since.is_some() || self.last.is_some()
    }
}

/// A bare key is a flag that is set.
fn flag(value: &str) -> Result<bool, &'static str> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("it is neither true nor false"),
    }
}

/// A time, or how long ago: `90s`, `5m`, `2h`.
pub fn moment(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, &'static str> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let wrong = "it is neither a time such as 2026-01-02T03:04:05Z nor a duration such as 90s, 5m or 2h";
    let unit = text.char_indices().next_back().ok_or(wrong)?;
    let seconds = match unit.1 {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong),
    };
    let count: u32 = text[..unit.0].parse().map_err(|_| wrong)?;
    now.checked_sub_signed(TimeDelta::seconds(i64::from(count) * seconds)).ok_or(wrong)
}

// === impl Filter ===

impl Filter {
    /// Whether a line is wanted; that something is missing concerns everyone.
    pub fn wants(&self, line: &Line) -> bool {
        match line {
            Line::Flow(flow) => self.wants_flow(flow),
            Line::Lost { .. } => true,
        }
    }

    fn wants_flow(&self, flow: &Flow) -> bool {
        if self.drops && flow.verdict != Verdict::Dropped {
            return false;
        }
        let unrestricted = self.namespace.is_none() && self.pod.is_none();
        let ends = [Some(&flow.to), flow.backend.as_ref()];
        (unrestricted || flow.parties().any(|party| self.is_about(party)))
            && self.from.as_deref().is_none_or(|end| is_end(end, &flow.from))
            && self.to.as_deref().is_none_or(|end| ends.into_iter().flatten().any(|party| is_end(end, party)))
    }

    fn is_about(&self, party: &Party) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| party.namespace.as_deref() == Some(namespace))
            && self.pod.as_deref().is_none_or(|name| is_named(name, party))
    }
}

/// `NAME`, `NAMESPACE/NAME` or an address.
fn is_end(end: &str, party: &Party) -> bool {
    match end.split_once('/') {
        Some((namespace, name)) => party.namespace.as_deref() == Some(namespace) && is_named(name, party),
        None => is_named(end, party) || end.parse() == Ok(party.ip),
    }
}

/// A pod or Service of that name, a pod of the Deployment of that name, or, when it is no pod, the node.
fn is_named(name: &str, party: &Party) -> bool {
    let of_set = |pod: &str| pod.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    match (&party.pod, &party.service, &party.node) {
        (Some(pod), _, _) => &**pod == name || of_set(pod),
        (None, Some(service), _) => &**service == name,
        (None, None, Some(node)) => &**node == name,
        (None, None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::tests::{closed, denied, flow};

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-01-02T03:04:05Z").unwrap().to_utc()
    }

    #[test]
    fn queries_survive_being_written() {
        let query = Query {
            filter: Filter {
                namespace: Some("a&b".into()),
                pod: Some("web".into()),
                from: Some("a/b".into()),
                to: Some("10.0.0.1".into()),
                drops: true,
            },
            follow: true,
            since: Some(now()),
            last: Some(20),
        };
        assert_eq!(Query::parse(&query.to_text(), Utc::now()), Ok(query));
        assert_eq!(Query::default().to_text(), "");
    }

    #[test]
    fn queries_are_read_as_people_write_them() {
        let read = |text: &str| Query::parse(text, now());
        let since = |text: &str| read(text).unwrap().since.map(client::objects::rfc3339);
        assert!(read("follow").unwrap().follow);
        assert!(!read("follow=false&drops=0").unwrap().follow);
        assert_eq!(since("since=5m").as_deref(), Some("2026-01-02T02:59:05Z"));
        assert_eq!(since("since=2026-01-01T00:00:00%2B01:00").as_deref(), Some("2025-12-31T23:00:00Z"));
        let complaint = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(complaint("last=many"), "`last=many`: it is no number of flows");
        assert!(complaint("since=5 parsecs").contains("such as 90s, 5m or 2h"));
        assert!(complaint("since=").contains("neither a time"));
        assert!(complaint("node=x").contains("there is only namespace"));
    }

    #[test]
    fn filters_know_deployments_by_their_pods() {
        let denied = Line::Flow(flow(&denied()));
        let closed = Line::Flow(flow(&closed()));
        let wanted = |namespace: &str, pod: &str, drops: bool| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let filter = Filter { namespace: some(namespace), pod: some(pod), drops, ..Filter::default() };
            (filter.wants(&denied), filter.wants(&closed))
        };
        assert_eq!(wanted("", "", false), (true, true));
        assert_eq!(wanted("", "", true), (true, false));
        assert_eq!(wanted("", "web", false), (true, false), "its ReplicaSet's pods");
        assert_eq!(wanted("", "we", false), (false, false));
        assert_eq!(wanted("", "db", false), (true, true), "the Service, and a set's pod");
        assert_eq!(wanted("shop", "db-0", false), (true, true), "who serves");
        assert_eq!(wanted("other", "", false), (false, false));
        assert_eq!(wanted("other", "db-0", false), (false, false), "one end must be both");
    }

    #[test]
    fn filters_know_both_ends() {
        let denied = Line::Flow(flow(&denied()));
        let wanted = |from: &str, to: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Filter { from: some(from), to: some(to), ..Filter::default() }.wants(&denied)
        };
        assert!(wanted("web", "") && wanted("shop/web", "db") && wanted("10.244.0.5", "shop/db-0"));
        assert!(wanted("", "10.96.0.7") && wanted("", "10.244.1.9"), "the Service's address and the pod's");
        assert!(!wanted("db", "") && !wanted("", "web") && !wanted("other/web", "") && !wanted("web", "web"));
    }
}
