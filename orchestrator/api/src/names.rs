//! Checks of names and other small strings. Each returns the problems it found, in Kubernetes' words; none if valid.
//!
//! The patterns are matched by hand: they run for every name, label and key of every write.

/// Longest DNS label (RFC 1123), and longest label value.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123).
pub const SUBDOMAIN_MAX: usize = 253;
/// Longest `Service` port name (IANA service name).
pub const PORT_NAME_MAX: usize = 15;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FORMAT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE_FORMAT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY_FORMAT: &str = "[-._a-zA-Z0-9]+";
const C_IDENTIFIER_FORMAT: &str = "[A-Za-z_][A-Za-z0-9_]*";

/// What the checks return.
pub type Problems = Vec<String>;

fn pattern_message(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", examples.join(" or "))
}

/// `must be no more than N bytes`.
pub fn too_long_message(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn matches(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match bytes {
        [] => false,
        [only] => first(*only) && last(*only),
        [start, middle @ .., end] => first(*start) && last(*end) && middle.iter().all(|byte| inner(*byte)),
    }
}

fn is_label(text: &str) -> bool {
    matches(text, lower_alnum, |byte| lower_alnum(byte) || byte == b'-', lower_alnum)
}

fn is_key_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    matches(text, |b| b.is_ascii_alphanumeric(), inner, |b| b.is_ascii_alphanumeric())
}

/// A lowercase RFC 1123 label: namespaces, containers.
pub fn dns1123_label(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long_message(LABEL_MAX));
    }
    if !is_label(text) {
        problems.push(if text.len() <= SUBDOMAIN_MAX && is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern_message(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A lowercase RFC 1123 subdomain: most names.
pub fn dns1123_subdomain(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(too_long_message(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        problems.push(pattern_message(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FORMAT,
            &["example.com"],
        ));
    }
    problems
}

/// A DNS-1035 label: services.
pub fn dns1035_label(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long_message(LABEL_MAX));
    }
    if !(is_label(text) && text.as_bytes()[0].is_ascii_lowercase()) {
        problems.push(pattern_message(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_FORMAT,
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// A label or annotation key: an optional subdomain, a slash, a name.
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let examples = &["MyName", "my.name", "123-abc"];
    if third.is_some() {
        let message = pattern_message(message, KEY_FORMAT, examples);
        problems.push(format!(
            "a valid label key {message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ));
        return problems;
    }
    let name = match second {
        None => first,
        Some(name) if first.is_empty() => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        Some(name) => {
            problems
                .extend(dns1123_subdomain(first).into_iter().map(|problem| format!("prefix part {problem}")));
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_long_message(LABEL_MAX)));
    }
    if !is_key_part(name) {
        problems.push(format!("name part {}", pattern_message(message, KEY_FORMAT, examples)));
    }
    problems
}

/// A label's value; may be empty.
pub fn label_value(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > LABEL_MAX {
        problems.push(too_long_message(LABEL_MAX));
    }
    if !text.is_empty() && !is_key_part(text) {
        problems.push(pattern_message(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            VALUE_FORMAT,
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(too_long_message(SUBDOMAIN_MAX));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        problems.push(pattern_message(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            CONFIG_KEY_FORMAT,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    } else {
        problems.extend(dot_prefix(text));
    }
    problems
}

/// An environment variable's name: since 1.34 any printable ASCII but `=`.
pub fn env_var_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    problems
}

/// A C identifier.
pub fn c_identifier(text: &str) -> Problems {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if matches(text, |byte| byte.is_ascii_alphabetic() || byte == b'_', inner, inner) {
        return Problems::new();
    }
    vec![pattern_message(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        C_IDENTIFIER_FORMAT,
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A container port's name (an IANA service name).
pub fn port_name(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > PORT_NAME_MAX {
        problems.push(too_long_message(PORT_NAME_MAX));
    }
    if text.is_empty() || !text.bytes().all(|byte| lower_alnum(byte) || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// A port's number.
pub fn port_number(port: i64) -> Problems {
    in_range(port, 1, 65_535)
}

/// `must be between LOW and HIGH, inclusive`.
pub fn in_range(value: i64, low: i64, high: i64) -> Problems {
    if (low..=high).contains(&value) {
        return Problems::new();
    }
    vec![format!("must be between {low} and {high}, inclusive")]
}

/// What must not stand in a URL path's segment: object names whose kind asks for nothing stricter.
pub fn path_segment(text: &str) -> Problems {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => ['/', '%']
            .into_iter()
            .filter(|c| text.contains(*c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// An IP address in the strict reading: no leading zeroes, no IPv4-mapped IPv6.
pub fn ip(text: &str) -> Problems {
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Problems::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// A CIDR block without bits beyond its prefix.
pub fn cidr(text: &str) -> Problems {
    match text.parse::<ipnet::IpNet>() {
        Ok(net) if net.addr() != net.network() => {
            vec!["must not have bits set beyond the prefix length".to_owned()]
        }
        Ok(_) => Problems::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// `50%`.
pub fn percent(text: &str) -> Problems {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Problems::new();
    }
    vec![pattern_message(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// An HTTP header's name.
pub fn http_header_name(text: &str) -> Problems {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Problems::new();
    }
    vec![pattern_message(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

fn dot_prefix(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// What a `generateName` prefix is checked as: a dash at its end is fine, the generated name does not end there.
pub fn mask_trailing_dash(text: &str) -> std::borrow::Cow<'_, str> {
    match text.strip_suffix('-').and_then(|prefix| prefix.char_indices().next_back()) {
        Some((last, _)) => format!("{}a", &text[..last]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomains() {
        assert!(dns1123_subdomain("a.b-c.0").is_empty());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a."] {
            assert_eq!(dns1123_subdomain(bad).len(), 1, "{bad}");
        }
        assert_eq!(
            dns1123_subdomain("X")[0],
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 bytes"]);
    }

    #[test]
    fn labels() {
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert!(dns1123_label("9a").is_empty());
        assert_eq!(dns1035_label("9a").len(), 1);
        assert_eq!(dns1035_label("").len(), 1);
        assert_eq!(
            dns1123_label("A")[0],
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
    }

    #[test]
    fn keys_and_values() {
        for good in ["a", "a.b/C_d", "example.com/MyName", "1"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/").len(), 2);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist"));
        assert!(label_value("").is_empty());
        assert_eq!(label_value("-").len(), 1);
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
        assert_eq!(config_map_key("..a"), ["must not start with '..'"]);
        assert!(config_map_key("a.B_c").is_empty());
    }

    #[test]
    fn small_values() {
        assert!(port_name("http-1").is_empty());
        assert_eq!(port_name("1"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(ip("::1").is_empty());
        assert_eq!(ip("010.0.0.1").len(), 1);
        assert_eq!(ip("::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(cidr("10.0.0.1/24"), ["must not have bits set beyond the prefix length"]);
        assert!(cidr("10.0.0.0/24").is_empty());
        assert!(percent("5%").is_empty() && !percent("%").is_empty());
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
        assert_eq!(mask_trailing_dash("ab-"), "aa");
        assert_eq!(mask_trailing_dash("-"), "-");
    }
}
