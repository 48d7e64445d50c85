//! `WWW-Authenticate` (RFC 9110 section 11.6.1): what a registry wants before it answers. Pure, and fed by strangers: any
//! text is read without a panic, and what makes no sense is skipped.
#![forbid(unsafe_code)]

/// One challenge: a scheme with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// The scheme in lower case: `basic`, `bearer`.
    pub(super) scheme: String,
    /// Parameters; names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header line. Several may follow each other in a line, separated like their parameters.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    while let Some(start) = rest.find(is_token_char) {
        let (word, after) = split_token(rest.get(start..).unwrap_or_default());
        match (after.trim_start().strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, after) = split_value(value.trim_start());
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            (Some(value), None) => rest = split_value(value.trim_start()).1,
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
    challenges
}

/// RFC 9110 section 5.6.2.
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn split_token(text: &str) -> (&str, &str) {
    let end = text.find(|c| !is_token_char(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// A quoted string, or what stands up to the next comma.
fn split_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn docker_hub() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull",error="insufficient_scope""#;
        let found = parse(header);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(found[0].parameter("service"), Some("registry.docker.io"));
        assert_eq!(found[0].parameter("scope"), Some("repository:library/debian:pull"));
        assert_eq!(found[0].parameter("nothing"), None);
    }

    #[test]
    fn what_servers_write() {
        for (header, expected) in [
            ("", "[]"),
            ("Basic realm=\"Registry\"", "[basic realm=Registry]"),
            ("BASIC", "[basic]"),
            ("basic realm=x", "[basic realm=x]"),
            (
                "Bearer  REALM = \"a,b\" , scope=\"p:pull,push\"",
                "[bearer realm=a,b scope=p:pull,push]",
            ),
            ("Negotiate, Basic realm=\"a\\\"b\"", "[negotiate] [basic realm=a\"b]"),
            // A token68 is survived, not understood.
            (
                "Negotiate abc==, Bearer realm=\"x\"",
                "[negotiate abc==] [bearer realm=x]",
            ),
            ("realm=\"lost\", Basic", "[basic]"),
            ("Bearer realm=\"open", "[bearer realm=open]"),
            ("Bearer realm=\"open\\", "[bearer realm=open]"),
            ("Bearer realm=", "[bearer realm=]"),
            (",,, ;;;", "[]"),
        ] {
            let found: Vec<String> = parse(header)
                .iter()
                .map(|challenge| {
                    let parameters: String = challenge
                        .parameters
                        .iter()
                        .map(|(name, value)| format!(" {name}={value}"))
                        .collect();
                    format!("[{}{parameters}]", challenge.scheme)
                })
                .collect();
            let found = if found.is_empty() {
                "[]".to_owned()
            } else {
                found.join(" ")
            };
            assert_eq!(found, expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in "\\PC{0,80}") {
            parse(&header);
        }

        #[test]
        fn headers_of_the_grammars_letters_are_survived(header in "[a-z =\",\\\\]{0,60}") {
            parse(&header);
        }

        #[test]
        fn quoted_values_come_back(realm in "[ -~]{0,40}") {
            let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\",service=s");
            let found = parse(&header);
            prop_assert_eq!(found[0].parameter("realm"), Some(realm.as_str()));
            prop_assert_eq!(found[0].parameter("service"), Some("s"));
        }
    }
}
