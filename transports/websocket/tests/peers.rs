//! Peers and proxies that do not behave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod authority;

use std::{future::poll_fn, net::SocketAddr, time::Duration};

use authority::Authority;
use sealway_link::{FrameLink, Frames, LinkError, LinkErrorKind, Listener, Transport as _};
use sealway_websocket::{MTU, Proxy, WebSocket};
use sealway_wire::Address;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn listen(websocket: &WebSocket, address: &str) -> (Box<dyn Listener>, SocketAddr) {
    let listener = websocket.listen(&Address::parse(address).unwrap()).await.unwrap();
    let text = listener.address();
    let Ok(Address::Net(address)) = Address::parse(&text) else { panic!("{text}") };
    let socket = SocketAddr::new(address.host.to_string().trim_matches(['[', ']']).parse().unwrap(), address.port);
    (listener, socket)
}

async fn connect(websocket: &WebSocket, address: &str) -> Result<Box<dyn FrameLink>, LinkError> {
    websocket.connect(&Address::parse(address).unwrap()).await
}

/// Frames until the link ends, and how it does.
async fn drain(link: &mut Box<dyn FrameLink>) -> (Vec<Vec<u8>>, Result<(), LinkErrorKind>) {
    let mut all = Vec::new();
    loop {
        let mut frames = Frames::new();
        let received = poll_fn(|cx| link.poll_recv(cx, &mut frames, 1 << 20)).await;
        all.extend((0..frames.len()).map(|index| frames.get(index).unwrap().to_vec()));
        match received {
            Ok(true) => {}
            Ok(false) => return (all, Ok(())),
            Err(error) => return (all, Err(error.kind)),
        }
    }
}

/// What a listener says to a request.
async fn answer(socket: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let len = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..len]).lines().next().unwrap_or_default().to_string()
}

fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

const OURS: &str = "Sec-WebSocket-Protocol: chat, sealway\r\n";

#[tokio::test]
async fn who_asks_for_something_else_is_told_so() {
    let (mut listener, socket) = listen(&WebSocket::default(), "ws://127.0.0.1:0/sealway").await;
    let accepting = tokio::spawn(async move { listener.accept().await.map(|_| ()) });
    for (text, expected) in [
        (request("/", OURS), "HTTP/1.1 404 Not Found"),
        (request("/sealway/", OURS), "HTTP/1.1 404 Not Found"),
        (request("/sealway", ""), "HTTP/1.1 400 Bad Request"),
        (request("/sealway", "Sec-WebSocket-Protocol: chat\r\n"), "HTTP/1.1 400 Bad Request"),
        ("GET /sealway HTTP/1.1\r\nHost: relay\r\n\r\n".into(), ""),
        ("\u{16}\u{3}\u{1} no HTTP at all\r\n\r\n".into(), ""),
        (request("/sealway", OURS), "HTTP/1.1 101 Switching Protocols"),
    ] {
        assert_eq!(answer(socket, &text).await, expected, "{text}");
    }
    accepting.await.unwrap().unwrap();
}

/// A connection to a listener that has taken it for a WebSocket.
async fn upgraded(socket: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(socket).await.unwrap();
    stream.write_all(request("/", OURS).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

/// RFC 6455 frames of a client that are written by hand, masked with zeros.
fn message(head: u8, octets: &[u8]) -> Vec<u8> {
    let mut frame = vec![head];
    match u8::try_from(octets.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(octets.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(octets);
    frame
}

#[tokio::test]
async fn what_is_no_frame_ends_the_link_behind_those_that_are() {
    let good = message(0x82, b"first");
    for (name, then, expected) in [
        ("text", message(0x81, b"second"), Err(LinkErrorKind::Framing)),
        ("an empty message", message(0x82, b""), Err(LinkErrorKind::Framing)),
        ("a message that is too long", message(0x82, &vec![7; MTU + 1]), Err(LinkErrorKind::Framing)),
        (
            "two halves that are too long",
            [message(0x02, &vec![7; MTU]), message(0x80, b"1")].concat(),
            Err(LinkErrorKind::Framing),
        ),
        ("a reserved opcode", message(0x83, b"?"), Err(LinkErrorKind::Framing)),
        ("an unmasked message", vec![0x82, 1, 1], Err(LinkErrorKind::Framing)),
        ("an end without a word", Vec::new(), Err(LinkErrorKind::Lost)),
        ("an end in mid-message", vec![0x82, 0x85, 0, 0], Err(LinkErrorKind::Lost)),
        ("an end", message(0x88, &[3, 0xe8]), Ok(())),
    ] {
        let (mut listener, socket) = listen(&WebSocket::default(), "ws://127.0.0.1:0").await;
        let client = async {
            let mut stream = upgraded(socket).await;
            stream.write_all(&[&good[..], &then].concat()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        };
        let (mut link, _stream) = tokio::join!(async { listener.accept().await.unwrap() }, client);
        assert_eq!(drain(&mut link).await, (vec![b"first".to_vec()], expected), "{name}");
        // It stays so.
        assert_eq!(drain(&mut link).await, (vec![], expected), "{name}");
    }
}

/// Fragments of a message, and pings between them, are put together by the socket.
#[tokio::test]
async fn a_message_may_come_in_pieces() {
    let (mut listener, socket) = listen(&WebSocket::default(), "ws://127.0.0.1:0").await;
    let client = async {
        let mut stream = upgraded(socket).await;
        let parts = [message(0x02, b"one "), message(0x89, b"ping"), message(0x80, b"frame"), message(0x88, b"")];
        for part in parts.concat() {
            stream.write_all(&[part]).await.unwrap();
        }
        stream
    };
    let (mut link, mut stream) = tokio::join!(async { listener.accept().await.unwrap() }, client);
    assert_eq!(drain(&mut link).await, (vec![b"one frame".to_vec()], Ok(())));
    poll_fn(|cx| link.poll_close(cx)).await.unwrap();
    drop(link);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).to_string();
    assert!(answer.contains("\u{4}ping"), "the ping is answered: {answer}");
}

/// One that does not finish its request holds nobody up, and is given up.
#[tokio::test]
async fn who_is_slow_holds_nobody_up() {
    let websocket = WebSocket::default().with_connect_timeout(Duration::from_secs(1));
    let (mut listener, socket) = listen(&websocket, "ws://127.0.0.1:0").await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(socket).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        slow.push(stream);
    }
    // 64 of one address are waited for, and end: then there is room for another.
    let accepted = tokio::spawn(async move { listener.accept().await.map(|_| listener) });
    for stream in &mut slow {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "a connection that is given up");
    }
    connect(&websocket, &format!("ws://{socket}")).await.unwrap();
    accepted.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_none_is_an_error_that_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", listener.local_addr().unwrap());
    let answers = ["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n", ""];
    let server = tokio::spawn(async move {
        for text in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    let websocket = WebSocket::default();
    let mut told = Vec::new();
    for _ in answers {
        let error = connect(&websocket, &address).await.err().unwrap();
        assert!(error.is_retryable());
        told.push((error.kind, error.to_string()));
    }
    server.await.unwrap();
    assert_eq!(
        told[0],
        (LinkErrorKind::Refused, format!("nobody listens at {address} (HTTP 503 Service Unavailable)"))
    );
    assert!(matches!(told[1].0, LinkErrorKind::Framing | LinkErrorKind::Other), "{told:?}");
    assert!(matches!(told[2].0, LinkErrorKind::Lost | LinkErrorKind::Framing), "{told:?}");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (mut listener, socket) = listen(&theirs.transport(), "wss://127.0.0.1:0").await;
    let serving = tokio::spawn(async move { listener.accept().await.map(|_| ()) });
    let address = format!("wss://{socket}");
    let error = connect(&ours.transport(), &address).await.err().unwrap().to_string();
    assert!(error.contains("certificate"), "{error}");
    // Without TLS, to a listener of TLS.
    assert!(connect(&WebSocket::default(), &format!("ws://{socket}")).await.is_err());
    connect(&theirs.transport(), &address).await.unwrap();
    serving.await.unwrap().unwrap();
    // Nobody listens without a certificate.
    let none = WebSocket::default().listen(&Address::parse("wss://127.0.0.1:0").unwrap()).await.err().unwrap();
    assert!(none.to_string().contains("no certificate was given"), "{none}");
    let halves = [(ours.certificate.as_str(), theirs.key.as_str()), ("", &ours.key), (&ours.certificate, "")];
    for (certificate, key) in halves {
        assert!(WebSocket::default().set_certificate(certificate.as_bytes(), key.as_bytes()).is_err());
    }
}

#[tokio::test]
async fn what_a_proxy_refuses_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let answers = [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", LinkErrorKind::Denied),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", LinkErrorKind::Unreachable),
        ("HTTP/1.1 200 OK\r\n\r\nand something that nobody asked for", LinkErrorKind::Framing),
        ("no HTTP\r\n\r\n", LinkErrorKind::Framing),
        ("HTTP/1.1 200 OK\r\n", LinkErrorKind::Framing),
    ];
    let server = tokio::spawn(async move {
        for (text, _) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..len]).to_string();
            assert_eq!(
                request,
                "CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n\
                 Proxy-Authorization: Basic bmFtZTpzZWNyZXQ=\r\n\r\n"
            );
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    let websocket = WebSocket::default().through(Proxy::parse(&format!("http://name:secret@{proxy}")).unwrap());
    for (text, kind) in answers {
        let error = connect(&websocket, "wss://relay.example:443/sealway").await.err().unwrap();
        assert_eq!(error.kind, kind, "{text}: {error}");
    }
    server.await.unwrap();
}

/// Whom limits count is believed of the proxy that was named, and of nobody else.
#[tokio::test]
async fn only_a_proxy_that_is_named_says_from_where_a_connection_comes() {
    for (believes, expected) in [(true, "203.0.113.7"), (false, "127.0.0.1")] {
        let websocket = WebSocket::default();
        let websocket = if believes { websocket.behind("127.0.0.1".parse().unwrap()) } else { websocket };
        let (mut listener, socket) = listen(&websocket, "ws://127.0.0.1:0").await;
        let more = format!("{OURS}X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.1, 203.0.113.7\r\n");
        let request = request("/", &more);
        let (link, _) = tokio::join!(listener.accept(), answer(socket, &request));
        assert_eq!(link.unwrap().source(), sealway_ip::source(expected.parse().unwrap()));
    }
}

#[tokio::test]
async fn a_silent_link_is_kept_by_pings_and_given_up_without_an_answer() {
    let times = WebSocket::default().with_ping_interval(Duration::from_millis(50));
    let times = times.with_idle_timeout(Duration::from_millis(500));
    let (mut listener, socket) = listen(&times, "ws://127.0.0.1:0").await;
    let address = format!("ws://{socket}");
    let (client, server) = tokio::join!(connect(&times, &address), listener.accept());
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // Both ends are polled far beyond the limit, and neither gives up.
    let long =
        tokio::time::timeout(Duration::from_secs(2), async { tokio::join!(drain(&mut client), drain(&mut server)) });
    assert!(long.await.is_err(), "pings keep it");
    // The client is there, and does nothing any more.
    assert_eq!(drain(&mut server).await.1, Err(LinkErrorKind::TimedOut));
}
