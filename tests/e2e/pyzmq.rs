//! The article's own world: pyzmq at the other end.

use crate::harness::*;
use std::process::{Command, Stdio};

/// The first Python that has pyzmq.
pub(crate) fn python() -> &'static str {
    let has_zmq = |python: &&str| {
        let probe = Command::new(python).args(["-c", "import zmq"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_zmq);
    found.expect("a python3 with pyzmq (Debian: python3-zmq; elsewhere: pip install pyzmq)")
}

fn start(script: &str, args: &[&str]) -> Helper {
    let mut command = Command::new(python());
    command.args(["-u", "-c", script]).args(args);
    Helper::start(command)
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
    let sub = start(script, &[publisher.told("publisher", "plain")]);
    let mut client = Client::connect(publisher.told("publisher", "http")).unwrap();
    // What is published before its subscription has arrived is for nobody.
    let received = eventually("a message", || {
        client.get("/downcase?param=HELLO").unwrap();
        sub.line_so_far()
    });
    assert_eq!(received, "[b'lower case of HELLO is hello']");
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
    let port = publisher.line();
    let folder = folder();
    let subscriber = subscriber(folder.path(), &format!("py=tcp://127.0.0.1:{port}"), &[]);
    // A PUB does not tell when the subscription has arrived: the first message that does tells.
    eventually("the first message", || {
        publisher.write_line("join");
        (!lines(folder.path()).is_empty()).then_some(())
    });
    for number in 0..5000 {
        publisher.write_line(&format!("topic|{number} größer"));
    }
    publisher.write_line("end");
    let lines = eventually("the last message", || {
        let lines = lines(folder.path());
        lines.last().is_some_and(|line| line.ends_with(" py/- end")).then_some(lines)
    });
    let numbered: Vec<_> = lines.iter().filter(|line| line.contains(" py/topic ")).map(|line| body(line)).collect();
    assert_eq!(numbered.len(), 5000);
    assert!(numbered.iter().enumerate().all(|(number, body)| *body == format!("{number} größer")));
    subscriber.stop();
}
