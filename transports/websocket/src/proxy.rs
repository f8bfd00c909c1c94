//! Ways through HTTP proxies.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use sealway_link::{LinkError, LinkErrorKind};
use sealway_wire::{Address, Host, NetAddress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The longest answer of a proxy.
const MAX_ANSWER: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// An HTTP proxy that connects to others for us.
#[derive(Clone)]
pub struct Proxy {
    /// Where it is, as an address of TCP.
    place: Arc<str>,
    /// What follows `Proxy-Authorization: `.
    credentials: Option<Arc<str>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.credentials.as_ref().map(|_| "..");
        f.debug_struct("Proxy").field("place", &self.place).field("credentials", &credentials).finish()
    }
}

/// What is no address of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyError {
    /// The part that is wrong: `proxy scheme`, `proxy host or port`, `proxy credentials`.
    pub field: &'static str,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is malformed: a proxy is named as http://[name:password@]host:port", self.field)
    }
}

impl Error for ProxyError {}

impl Proxy {
    /// Parses `[http://][name:password@]host[:port][/]`, with percent-encoding (RFC 3986) in name and password; the port is 80
    /// unless it is there.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(ProxyError { field: "proxy scheme" }),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(parse_credentials(credentials)?), host),
            None => (None, rest),
        };
        // The port is what follows the last colon, unless that is inside an IPv6 address.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let place = if has_port { format!("tcp://{host}") } else { format!("tcp://{host}:80") };
        if !matches!(Address::parse(&place), Ok(Address::Net(address)) if address.port != 0) {
            return Err(ProxyError { field: "proxy host or port" });
        }
        Ok(Self { place: place.into(), credentials: credentials.map(Into::into) })
    }

    /// A connection to `target`, made by the proxy.
    pub(crate) async fn connect(
        &self,
        target: &NetAddress<'_>,
        local: Option<IpAddr>,
    ) -> Result<(TcpStream, SocketAddr), LinkError> {
        let Ok(Address::Net(place)) = Address::parse(&self.place) else {
            return Err(LinkError::new(LinkErrorKind::Unreachable, &self.place));
        };
        let (mut stream, peer) = sealway_ip::stream::connect(&place, local).await?;
        let failed = |error| sealway_ip::failure(error, place);
        let authority = format!("{}:{}", target.host, target.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str("Proxy-Authorization: ");
            request.push_str(credentials);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::new();
        loop {
            let read = stream.read_buf(&mut answer).await.map_err(failed)?;
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let malformed = || LinkError::new(LinkErrorKind::Framing, place);
            match response.parse(&answer).map_err(|error| malformed().caused_by(error))? {
                httparse::Status::Complete(len) => {
                    let code = response.code.unwrap_or(0);
                    return match code {
                        // What is behind it speaks only when it is spoken to.
                        200..300 if len == answer.len() => Ok((stream, peer)),
                        200..300 => Err(malformed()),
                        _ => {
                            let kind = match code {
                                401 | 403 | 407 => LinkErrorKind::Denied,
                                _ => LinkErrorKind::Unreachable,
                            };
                            let why = format!("the proxy {place} said {code}");
                            Err(LinkError::new(kind, target).caused_by(why))
                        }
                    };
                }
                httparse::Status::Partial if read == 0 || answer.len() > MAX_ANSWER => return Err(malformed()),
                httparse::Status::Partial => {}
            }
        }
    }
}

fn parse_credentials(text: &str) -> Result<String, ProxyError> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    let [name, password] = [name, password].map(|part| percent_decode_str(part).collect::<Vec<u8>>());
    // A colon ends the name (RFC 7617, 2).
    if name.is_empty() || name.contains(&b':') {
        return Err(ProxyError { field: "proxy credentials" });
    }
    Ok(format!("Basic {}", BASE64.encode(&[&name[..], b":", &password].concat())))
}

/// Which proxy leads where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    plain: Option<Result<Proxy, ProxyError>>,
    secure: Option<Result<Proxy, ProxyError>>,
    /// Hosts, and domains with all that is in them.
    exempt: Vec<String>,
}

impl Proxies {
    pub(crate) fn always(proxy: Proxy) -> Self {
        Self { plain: Some(Ok(proxy.clone())), secure: Some(Ok(proxy)), exempt: Vec::new() }
    }

    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let value = |names: &[&str]| names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let proxy = |names: &[&str]| value(names).map(|value| Proxy::parse(&value));
        let all = ["all_proxy", "ALL_PROXY"];
        // HTTP_PROXY is not read: where CGI runs, clients set it.
        let [plain, secure] = [&["http_proxy"][..], &["https_proxy", "HTTPS_PROXY"]].map(|own| [own, &all].concat());
        let exempt = value(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        let bare = |entry: &str| {
            entry.trim_start_matches("*.").trim_start_matches('.').trim_matches(['[', ']']).to_ascii_lowercase()
        };
        let exempt = exempt.split(',').map(|entry| bare(entry.trim()));
        let exempt = exempt.filter(|entry| !entry.is_empty()).collect();
        Self { plain: proxy(&plain), secure: proxy(&secure), exempt }
    }

    /// The proxy on the way to `target`.
    pub(crate) fn of(&self, target: &NetAddress<'_>, is_secure: bool) -> Option<Result<&Proxy, ProxyError>> {
        let host = target.host.to_string().trim_matches(['[', ']']).to_owned();
        let is_name = matches!(target.host, Host::Name(_));
        let is_in = |entry: &String| {
            let before = host.strip_suffix(entry.as_str());
            entry == "*" || before.is_some_and(|before| before.is_empty() || is_name && before.ends_with('.'))
        };
        let proxy = if is_secure { &self.secure } else { &self.plain };
        let proxy = proxy.as_ref().filter(|_| !self.exempt.iter().any(is_in));
        proxy.map(|proxy| proxy.as_ref().map_err(|error| *error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_parsed_and_what_is_none_is_named() {
        for (text, place) in [
            ("http://proxy.example:3128", "tcp://proxy.example:3128"),
            ("http://proxy.example", "tcp://proxy.example:80"),
            ("proxy.example:3128", "tcp://proxy.example:3128"),
            ("http://[2001:db8::1]:3128/", "tcp://[2001:db8::1]:3128"),
            ("http://[2001:db8::1]", "tcp://[2001:db8::1]:80"),
        ] {
            assert_eq!(Proxy::parse(text).map(|proxy| proxy.place.to_string()), Ok(place.to_string()), "{text}");
        }
        for (text, field) in [
            ("socks5h://proxy.example:3128", "proxy scheme"),
            ("https://proxy.example:3128", "proxy scheme"),
            ("http://", "proxy host or port"),
            ("http://proxy.example:0", "proxy host or port"),
            ("http://proxy.example:99999", "proxy host or port"),
            ("http://proxy example:80", "proxy host or port"),
            ("http://proxy.example:80/path", "proxy host or port"),
            ("http://:secret@proxy.example:80", "proxy credentials"),
            ("http://na%3Ame:secret@proxy.example:80", "proxy credentials"),
        ] {
            assert_eq!(Proxy::parse(text).map(|proxy| proxy.place), Err(ProxyError { field }), "{text}");
        }
        // RFC 7617, 2: its example.
        let proxy = Proxy::parse("http://Aladdin:open%20sesame@proxy.example:80");
        let credentials = proxy.clone().map(|proxy| proxy.credentials.as_deref().map(str::to_string));
        assert_eq!(credentials, Ok(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into())));
        assert!(!format!("{proxy:?}").contains("QWxh"));
    }

    #[test]
    fn the_environment_says_which_proxy_leads_where() {
        let variables = [
            ("https_proxy", "http://secure.example:1"),
            ("HTTPS_PROXY", "http://other.example:1"),
            ("HTTP_PROXY", "http://attacker.example:1"),
            ("ALL_PROXY", "http://all.example:1"),
            ("no_proxy", "localhost, .inner.example,10.0.0.1,[2001:db8::1],*.corp.example,0.1"),
        ];
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        let proxies = Proxies::from_environment(variable);
        for (target, expected) in [
            ("wss://relay.example:443", Some("tcp://secure.example:1")),
            ("ws://relay.example:80", Some("tcp://all.example:1")),
            ("wss://localhost:443", None),
            ("wss://inner.example:443", None),
            ("wss://relay.inner.example:443", None),
            ("wss://notinner.example:443", Some("tcp://secure.example:1")),
            ("ws://10.0.0.1:80", None),
            ("ws://10.1.0.1:80", Some("tcp://all.example:1")),
            ("ws://[2001:db8::1]:80", None),
            ("ws://relay.corp.example:80", None),
        ] {
            let Ok(Address::Net(address)) = Address::parse(target) else { unreachable!("{target}") };
            let found = proxies.of(&address, target.starts_with("wss"));
            assert_eq!(found.map(|proxy| proxy.map(|proxy| &*proxy.place)), expected.map(Ok), "{target}");
        }
        let none = Proxies::from_environment(|name| (name == "all_proxy").then(|| "socks5://proxy.example:1".into()));
        let Ok(Address::Net(address)) = Address::parse("ws://relay.example:80") else { unreachable!("an address") };
        let found = none.of(&address, false).map(|proxy| proxy.map(|proxy| &*proxy.place));
        assert_eq!(found, Some(Err(ProxyError { field: "proxy scheme" })));
    }
}
