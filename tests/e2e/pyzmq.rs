//! The article's own world: pyzmq at the other end.

use crate::harness::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// The first Python that has pyzmq.
fn python() -> &'static str {
    let has_zmq = |python: &&str| {
        let probe = Command::new(python).args(["-c", "import zmq"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_zmq);
    found.expect("a python3 with pyzmq (Debian: python3-zmq; elsewhere: pip install pyzmq)")
}

fn start(script: &str, args: &[&str]) -> Child {
    let mut command = Command::new(python());
    command.args(["-u", "-c", script]).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_pyzmq_sub_receives_the_text_as_a_single_frame() {
    let publisher = publisher(&[]);
    let script = "
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
socket.setsockopt_string(zmq.SUBSCRIBE, '')
while True:
    print(socket.recv_multipart())
";
    let mut sub = start(script, &[publisher.told("publisher", "plain")]);
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    eventually("the subscriber is connected", || {
        (publisher.metric("publisher", "downpipe_publisher_plain_subscribers") == 1).then_some(())
    });
    // Its subscription follows its connection; what is sent until then is for nobody.
    let mut received = BufReader::new(sub.stdout.take().unwrap()).lines();
    let asking = std::thread::spawn(move || {
        for _ in 0..200 {
            client.get("/downcase?param=HELLO").unwrap();
        }
    });
    asking.join().unwrap();
    assert_eq!(received.next().unwrap().unwrap(), "[b'lower case of HELLO is hello']");
    sub.kill().unwrap();
    sub.wait().unwrap();
}

#[test]
fn the_messages_of_a_pyzmq_pub_land_in_the_log() {
    let script = "
import sys, zmq
socket = zmq.Context().socket(zmq.PUB)
socket.setsockopt(zmq.SNDHWM, 0)
print(socket.bind_to_random_port('tcp://127.0.0.1'))
for line in sys.stdin:
    socket.send_multipart([frame.encode() for frame in line.rstrip('\\n').split('|')])
";
    let mut publisher = start(script, &[]);
    let mut stdin = publisher.stdin.take().unwrap();
    let port = BufReader::new(publisher.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let folder = folder();
    let subscriber = subscriber(folder.path(), &format!("py=tcp://127.0.0.1:{port}"), &[]);
    // A PUB does not tell when the subscription has arrived: the first message that does tells.
    eventually("the first message", || {
        writeln!(stdin, "join").unwrap();
        (!lines(folder.path()).is_empty()).then_some(())
    });
    for number in 0..5000 {
        writeln!(stdin, "topic|{number} größer").unwrap();
    }
    writeln!(stdin, "end").unwrap();
    let lines = eventually("the last message", || {
        let lines = lines(folder.path());
        lines.last().is_some_and(|line| line.ends_with(" py/- end")).then_some(lines)
    });
    let numbered: Vec<_> = lines.iter().filter(|line| line.contains(" py/topic ")).map(|line| body(line)).collect();
    assert_eq!(numbered.len(), 5000);
    assert!(numbered.iter().enumerate().all(|(number, body)| *body == format!("{number} größer")));
    drop(stdin);
    publisher.wait().unwrap();
    subscriber.stop();
}
