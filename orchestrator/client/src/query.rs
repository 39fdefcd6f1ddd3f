//! Paths and query strings of requests.

/// Builds a path with its query.
#[derive(Debug)]
pub(crate) struct Query {
    text: String,
    first: bool,
}

impl Query {
    pub(crate) fn new(path: String) -> Self {
        Self { text: path, first: true }
    }

    pub(crate) fn push(&mut self, key: &str, value: &str) {
        self.text.push(if self.first { '?' } else { '&' });
        self.first = false;
        self.text.push_str(key);
        self.text.push('=');
        push_segment(&mut self.text, value);
    }

    pub(crate) fn push_some(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.push(key, value);
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// Appends text with everything but RFC 3986's unreserved characters escaped.
pub(crate) fn push_segment(path: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_urls_reserve() {
        let mut query = Query::new("/api/v1/pods".into());
        query.push("labelSelector", "a=b,c in (d)");
        query.push_some("continue", "");
        query.push("limit", "5");
        assert_eq!(query.finish(), "/api/v1/pods?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=5");
    }
}
