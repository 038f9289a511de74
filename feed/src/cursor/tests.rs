//! Each verdict, as a claim.

use super::*;
use crate::{Block, BlockBuilder, Busy, End, Fork, Gap, GapReason};

const STREAM: StreamId = StreamId([7; 16]);
const OTHER: StreamId = StreamId([8; 16]);
const START: Position = Position { next: 0, previous: 0 };

fn block_of(stream: StreamId, at: Position, body: &[u8]) -> Block {
    let mut builder = BlockBuilder::new();
    builder.push(0, "t", body).unwrap();
    builder.push(0, "t", body).unwrap();
    builder.finish(stream, at).unwrap()
}

/// Blocks of two records, one behind the other.
fn chain(mut at: Position, count: usize) -> Vec<Block> {
    (0..count)
        .map(|_| {
            let block = block_of(STREAM, at, b"body");
            at = block.end();
            block
        })
        .collect()
}

fn head_of(stream: StreamId, oldest: Position, next: Position) -> Message {
    Message::Head(Head { stream, oldest, next, name: "a".into(), replay: "h:1".into() })
}

fn head(oldest: Position, next: Position) -> Message {
    head_of(STREAM, oldest, next)
}

fn end() -> Message {
    Message::End(End { stream: STREAM, at: START })
}

fn fork(from: Position) -> Message {
    Message::Fork(Fork { stream: STREAM, from })
}

fn gap(from: u64, to: Position) -> Gap {
    Gap { stream: STREAM, from, to, reason: GapReason::Retention }
}

fn at(next: u64, previous: u32) -> Position {
    Position { next, previous }
}

fn request(from: Position, credit_bytes: u32) -> Fetch {
    Fetch { stream: STREAM, from, credit_bytes, version: 1 }
}

fn fetch(from: Position, feed: FeedSocket) -> Verdict {
    Verdict::Fetch { fetch: request(from, CREDIT_BYTES), feed }
}

fn probe(from: Position) -> Verdict {
    Verdict::Fetch { fetch: request(from, 0), feed: FeedSocket::Close }
}

fn boundary(at_most: u64) -> Verdict {
    Verdict::Ask(Question::Boundary { stream: STREAM, at_most })
}

fn unexpected(what: &'static str) -> Verdict {
    Verdict::Reconnect(Fault::Unexpected(what))
}

const SERVED: Claim = Claim { granted: true, home: true, at: None, had: Some(STREAM) };

/// A cursor that has met a publisher with this head, and was told this.
fn met(head: &Message, claim: Claim) -> (Cursor, Verdict) {
    let mut cursor = Cursor::new(FirstContact::Earliest);
    assert_eq!(cursor.start(), Verdict::Read);
    assert_eq!(cursor.feed(head), Verdict::Ask(Question::Claim(head.stream())));
    let verdict = cursor.answer(Answer::Claim(claim));
    (cursor, verdict)
}

/// A cursor at home that fetches from where the log stands.
fn fetching(from: Position, home: bool) -> Cursor {
    let (cursor, verdict) = met(&head(START, from), Claim { at: Some(from), home, ..SERVED });
    assert_eq!(verdict, fetch(from, FeedSocket::Close));
    cursor
}

/// A cursor that has caught up there, and reads the feed.
fn reading(from: Position) -> Cursor {
    let mut cursor = fetching(from, true);
    assert_eq!(cursor.reply(&head(START, from)), Verdict::Ignore);
    assert_eq!(cursor.reply(&end()), Verdict::Read);
    cursor
}

#[test]
fn the_first_contact_begins_where_it_was_told_to() {
    let now = head(at(10, 1), at(20, 2));
    let unknown = Claim { granted: true, home: false, at: None, had: None };
    for (first_contact, base) in [(FirstContact::Earliest, at(12, 3)), (FirstContact::Latest, at(24, 4))] {
        let mut cursor = Cursor::new(first_contact);
        cursor.start();
        cursor.feed(&now);
        assert_eq!(cursor.answer(Answer::Claim(unknown)), probe(at(10, 1)));
        // The head of the reply counts, not the one that was met.
        assert_eq!(cursor.reply(&head(at(12, 3), at(24, 4))), Verdict::Base { stream: STREAM, at: base });
        assert_eq!(cursor.reply(&end()), fetch(base, FeedSocket::Close));
    }
}

#[test]
fn a_connection_begins_with_a_fetch_from_the_writers_position() {
    fetching(at(40, 5), true);
    fetching(at(40, 5), false);
}

#[test]
fn the_next_block_is_appended_and_only_that() {
    let blocks = chain(START, 3);
    let mut cursor = reading(START);
    let feed = |cursor: &mut Cursor, block: &Block| cursor.feed(&Message::Block(block.clone()));
    assert_eq!(feed(&mut cursor, &blocks[0]), Verdict::Append);
    assert_eq!(feed(&mut cursor, &blocks[0]), Verdict::Ignore);
    assert_eq!(feed(&mut cursor, &blocks[1]), Verdict::Append);
    // Begins in front of the position and ends behind it: whatever it is, it is not the next.
    assert_eq!(feed(&mut cursor, &block_of(STREAM, at(3, 9), b"")), Verdict::Ignore);
    assert_eq!(feed(&mut cursor, &blocks[2]), Verdict::Append);
}

#[test]
fn a_block_beyond_is_fetched_up_to_and_the_feed_is_kept_unread() {
    let blocks = chain(START, 3);
    let mut cursor = reading(START);
    assert_eq!(cursor.feed(&Message::Block(blocks[2].clone())), fetch(START, FeedSocket::Keep));
    assert_eq!(cursor.feed(&Message::Block(blocks[0].clone())), Verdict::Ignore);
    assert_eq!(cursor.reply(&Message::Busy(Busy { stream: STREAM })), Verdict::Ignore);
    assert_eq!(cursor.reply(&head(START, blocks[2].end())), Verdict::Ignore);
    for block in &blocks[..2] {
        assert_eq!(cursor.reply(&Message::Block(block.clone())), Verdict::Append);
    }
    assert_eq!(cursor.reply(&end()), fetch(blocks[2].start(), FeedSocket::Keep));
    assert_eq!(cursor.reply(&head(START, blocks[2].end())), Verdict::Ignore);
    assert_eq!(cursor.reply(&Message::Block(blocks[2].clone())), Verdict::Append);
    assert_eq!(cursor.reply(&end()), Verdict::Read);
    assert_eq!(cursor.feed(&Message::Block(blocks[2].clone())), Verdict::Ignore);
}

#[test]
fn a_reply_counts_as_caught_up_by_its_own_head_not_by_an_older_one() {
    let blocks = chain(START, 2);
    let mut cursor = reading(START);
    assert_eq!(cursor.feed(&head(START, blocks[0].end())), fetch(START, FeedSocket::Keep));
    assert_eq!(cursor.reply(&head(START, blocks[1].end())), Verdict::Ignore);
    assert_eq!(cursor.reply(&Message::Block(blocks[0].clone())), Verdict::Append);
    assert_eq!(cursor.reply(&end()), fetch(blocks[0].end(), FeedSocket::Keep));
}

#[test]
fn a_subscriber_far_behind_closes_the_feed() {
    let blocks = chain(START, 6);
    let mut cursor = reading(START);
    cursor.feed(&head(START, blocks[5].end()));
    for (replies, block) in blocks[..5].iter().enumerate() {
        cursor.reply(&head(START, blocks[5].end()));
        cursor.reply(&Message::Block(block.clone()));
        let feed = if replies < 3 { FeedSocket::Keep } else { FeedSocket::Close };
        assert_eq!(cursor.reply(&end()), fetch(block.end(), feed), "after {} replies", replies + 1);
    }
}

#[test]
fn a_feed_that_was_closed_for_the_writers_sake_is_made_up_for_by_a_fetch() {
    assert_eq!(reading(at(4, 1)).fell_behind(), fetch(at(4, 1), FeedSocket::Close));
    assert_eq!(fetching(at(4, 1), true).fell_behind(), Verdict::Ignore);
    let mut cursor = Cursor::new(FirstContact::Earliest);
    assert_eq!(cursor.fell_behind(), Verdict::Ignore);
    cursor.start();
    assert_eq!(cursor.fell_behind(), Verdict::Read);
}

#[test]
fn an_older_head_on_the_feed_says_nothing() {
    let mut cursor = reading(at(40, 5));
    assert_eq!(cursor.feed(&head(START, at(40, 5))), Verdict::Ignore);
    assert_eq!(cursor.feed(&head(START, at(38, 9))), Verdict::Ignore);
}

#[test]
fn another_chain_value_on_the_feed_is_ground_for_a_fetch_and_nothing_else() {
    let here = at(40, 5);
    let forged = Message::Block(block_of(STREAM, at(40, 6), b""));
    assert_eq!(reading(here).feed(&forged), fetch(here, FeedSocket::Keep));
    assert_eq!(reading(here).feed(&head(START, at(40, 6))), fetch(here, FeedSocket::Keep));
    let mut cursor = fetching(here, true);
    cursor.reply(&head(START, at(42, 1)));
    assert_eq!(cursor.reply(&forged), unexpected("block"));
}

#[test]
fn a_loss_is_stated_for_a_gap_that_begins_at_the_position() {
    let mut cursor = fetching(at(4, 1), true);
    assert_eq!(cursor.reply(&head(START, at(12, 2))), Verdict::Ignore);
    // Retention went on since the head was made.
    let gap = gap(4, at(10, 3));
    assert_eq!(cursor.reply(&Message::Gap(gap)), Verdict::Lost(gap));
    assert_eq!(cursor.reply(&end()), fetch(at(10, 3), FeedSocket::Keep));
}

#[test]
fn a_gap_may_end_behind_the_head_of_its_reply() {
    let mut cursor = fetching(at(4, 1), true);
    cursor.reply(&head(START, at(12, 2)));
    let gap = gap(4, at(20, 3));
    assert_eq!(cursor.reply(&Message::Gap(gap)), Verdict::Lost(gap));
    assert_eq!(cursor.reply(&end()), Verdict::Read);
}

#[test]
fn a_gap_that_begins_elsewhere_is_not_believed() {
    for from in [3, 5] {
        let mut cursor = fetching(at(4, 1), true);
        cursor.reply(&head(START, at(12, 2)));
        assert_eq!(cursor.reply(&Message::Gap(gap(from, at(12, 2)))), Verdict::Ignore);
        assert_eq!(cursor.reply(&end()), Verdict::Reconnect(Fault::NoProgress(4)));
    }
    assert_eq!(reading(at(4, 1)).feed(&Message::Gap(gap(4, at(12, 2)))), unexpected("gap"));
    assert_eq!(reading(at(4, 1)).reply(&Message::Gap(gap(4, at(12, 2)))), unexpected("gap"));
}

#[test]
fn a_head_that_ends_in_front_of_the_position_without_a_fork_is_a_contradiction() {
    let mut cursor = fetching(at(4, 1), true);
    cursor.reply(&head(START, at(2, 2)));
    assert_eq!(cursor.reply(&end()), Verdict::Reconnect(Fault::NoProgress(4)));
}

#[test]
fn a_fork_at_home_is_followed_from_the_last_common_block() {
    let here = at(16, 1);
    let mut cursor = fetching(here, true);
    let now = head(at(4, 4), at(14, 14));
    cursor.reply(&now);
    assert_eq!(cursor.reply(&fork(here)), Verdict::Ignore);
    // Of ours there are 6, 8, 13; 8 is the last common one.
    assert_eq!(cursor.reply(&end()), boundary(10));
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(8, 8)))), probe(at(8, 8)));
    assert_eq!(cursor.reply(&now), Verdict::Ignore);
    assert_eq!(cursor.reply(&end()), boundary(13));
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(13, 13)))), probe(at(13, 13)));
    assert_eq!(cursor.reply(&now), Verdict::Ignore);
    assert_eq!(cursor.reply(&fork(at(13, 13))), Verdict::Ignore);
    assert_eq!(cursor.reply(&end()), boundary(12));
    let fetch = request(at(8, 8), CREDIT_BYTES);
    let forked = Verdict::Forked { stream: STREAM, from: here, at: at(8, 8), fetch };
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(8, 8)))), forked);
    assert_eq!(cursor.reply(&now), Verdict::Ignore);
}

#[test]
fn a_fork_without_a_common_block_begins_at_the_oldest() {
    let here = at(16, 1);
    let mut cursor = fetching(here, true);
    cursor.reply(&head(at(15, 15), at(20, 20)));
    cursor.reply(&fork(here));
    assert_eq!(cursor.reply(&end()), boundary(15));
    let fetch = request(at(15, 15), CREDIT_BYTES);
    let forked = Verdict::Forked { stream: STREAM, from: here, at: at(15, 15), fetch };
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(14, 14)))), forked);
}

#[test]
fn a_publisher_that_denies_a_position_and_then_names_it_is_left() {
    let here = at(16, 1);
    let mut cursor = fetching(here, true);
    cursor.reply(&head(here, at(20, 2)));
    cursor.reply(&fork(here));
    assert_eq!(cursor.reply(&end()), Verdict::Reconnect(Fault::NoProgress(16)));
}

#[test]
fn retention_that_passes_the_position_during_a_search_is_for_a_gap_to_say() {
    let here = at(16, 1);
    let mut cursor = fetching(here, true);
    cursor.reply(&head(at(15, 15), at(20, 20)));
    cursor.reply(&fork(here));
    assert_eq!(cursor.reply(&end()), boundary(15));
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(15, 15)))), probe(at(15, 15)));
    cursor.reply(&head(at(18, 18), at(20, 20)));
    assert_eq!(cursor.reply(&end()), fetch(here, FeedSocket::Close));
}

#[test]
fn a_fork_at_another_address_is_refused_by_name() {
    let here = at(16, 1);
    let refused = Verdict::Refuse(Refusal::Fork { stream: STREAM, at: here });
    let mut taking_over = fetching(here, false);
    taking_over.reply(&head(START, at(14, 14)));
    assert_eq!(taking_over.reply(&fork(here)), refused);
    assert_eq!(taking_over.reply(&end()), Verdict::Ignore);
    let (mut parked, _) = met(&head(START, here), Claim { granted: false, home: false, at: Some(here), had: None });
    parked.reply(&head(START, at(14, 14)));
    assert_eq!(parked.reply(&fork(here)), refused);
    assert_eq!(parked.again(), Verdict::Ignore);
}

#[test]
fn a_fork_stands_alone_in_its_reply() {
    let here = at(16, 1);
    for beside in [Message::Gap(gap(16, at(20, 2))), Message::Block(block_of(STREAM, here, b""))] {
        let mut cursor = fetching(here, true);
        cursor.reply(&head(START, at(24, 24)));
        assert_eq!(cursor.reply(&fork(here)), Verdict::Ignore);
        assert!(matches!(cursor.reply(&beside), Verdict::Reconnect(Fault::Unexpected(_))));
    }
}

#[test]
fn a_candidate_that_the_publisher_cannot_judge_is_not_common() {
    let here = at(2, 1);
    let mut cursor = fetching(here, true);
    let now = head(START, at(24, 24));
    cursor.reply(&now);
    cursor.reply(&fork(here));
    assert_eq!(cursor.reply(&end()), boundary(1));
    assert_eq!(cursor.answer(Answer::Boundary(Some(at(1, 1)))), probe(at(1, 1)));
    cursor.reply(&now);
    assert_eq!(cursor.reply(&Message::Gap(gap(1, at(9, 9)))), Verdict::Ignore);
    assert_eq!(cursor.reply(&end()), boundary(0));
}

#[test]
fn a_fork_of_what_was_not_asked_is_not_believed() {
    let mut cursor = fetching(at(16, 1), true);
    cursor.reply(&head(START, at(14, 14)));
    assert_eq!(cursor.reply(&fork(at(16, 2))), unexpected("fork"));
}

#[test]
fn a_wiped_journal_is_replaced_and_read_from_its_oldest() {
    let mut cursor = Cursor::new(FirstContact::Latest);
    cursor.start();
    cursor.feed(&head(START, at(9, 9)));
    cursor.answer(Answer::Claim(Claim { at: Some(at(4, 1)), ..SERVED }));
    cursor.reply(&head(START, at(12, 2)));
    cursor.start();
    let now = head_of(OTHER, at(3, 3), at(30, 30));
    cursor.feed(&now);
    let claim = Claim { granted: true, home: false, at: None, had: Some(STREAM) };
    assert!(matches!(cursor.answer(Answer::Claim(claim)), Verdict::Fetch { fetch, .. } if fetch.credit_bytes == 0));
    let replaced = Verdict::Replaced { old: STREAM, heard: 12, stream: OTHER, base: at(3, 3) };
    assert_eq!(cursor.reply(&now), replaced);
}

#[test]
fn a_replacement_that_the_writer_did_not_take_is_stated_again_with_the_same_figure() {
    let mut cursor = reading(START);
    cursor.feed(&head(START, at(12, 2)));
    let now = head_of(OTHER, START, START);
    let claim = Claim { granted: true, home: false, at: None, had: Some(STREAM) };
    let replaced = Verdict::Replaced { old: STREAM, heard: 12, stream: OTHER, base: START };
    for _ in 0..2 {
        cursor.start();
        cursor.feed(&now);
        cursor.answer(Answer::Claim(claim));
        assert_eq!(cursor.reply(&now), replaced);
    }
    // Taken: what counts from now on is the new stream.
    cursor.start();
    cursor.feed(&now);
    cursor.answer(Answer::Claim(Claim { home: true, at: Some(START), had: Some(OTHER), ..claim }));
    cursor.start();
    cursor.feed(&head(START, at(40, 4)));
    cursor.answer(Answer::Claim(Claim { had: Some(OTHER), ..claim }));
    let back = Verdict::Replaced { old: OTHER, heard: 0, stream: STREAM, base: START };
    assert_eq!(cursor.reply(&head(START, at(40, 4))), back);
}

#[test]
fn what_was_heard_of_a_history_that_is_no_more_is_not_counted_lost() {
    let claim = Claim { at: Some(at(16, 1)), ..SERVED };
    let (mut cursor, _) = met(&head(START, at(40, 4)), claim);
    cursor.start();
    let now = head(at(15, 15), at(17, 17));
    cursor.feed(&now);
    cursor.answer(Answer::Claim(claim));
    cursor.reply(&now);
    cursor.reply(&fork(at(16, 1)));
    assert_eq!(cursor.reply(&end()), boundary(15));
    assert!(matches!(cursor.answer(Answer::Boundary(None)), Verdict::Forked { .. }));
    cursor.start();
    let other = head_of(OTHER, START, START);
    cursor.feed(&other);
    cursor.answer(Answer::Claim(Claim { granted: true, home: false, at: None, had: Some(STREAM) }));
    assert!(matches!(cursor.reply(&other), Verdict::Replaced { old: STREAM, heard: 17, .. }));
}

#[test]
fn what_is_served_in_place_of_its_home_leaves_the_figure_of_the_addresss_own_stream() {
    let mut cursor = reading(START);
    cursor.feed(&head(START, at(12, 2)));
    cursor.start();
    let foreign = head_of(OTHER, START, at(99, 9));
    cursor.feed(&foreign);
    cursor.answer(Answer::Claim(Claim { granted: true, home: false, at: Some(START), had: Some(STREAM) }));
    cursor.reply(&foreign);
    cursor.start();
    let third = head_of(StreamId([9; 16]), START, START);
    cursor.feed(&third);
    cursor.answer(Answer::Claim(Claim { granted: true, home: false, at: None, had: Some(STREAM) }));
    assert!(matches!(cursor.reply(&third), Verdict::Replaced { old: STREAM, heard: 12, .. }));
}

#[test]
fn a_stream_that_came_back_goes_on_where_the_log_stands() {
    let claim = Claim { at: Some(at(4, 1)), had: Some(OTHER), ..SERVED };
    let (mut cursor, verdict) = met(&head(START, at(9, 9)), claim);
    assert_eq!(verdict, probe(START));
    let replaced = Verdict::Replaced { old: OTHER, heard: 0, stream: STREAM, base: at(4, 1) };
    assert_eq!(cursor.reply(&head(START, at(9, 9))), replaced);
    assert_eq!(cursor.reply(&end()), fetch(at(4, 1), FeedSocket::Close));
}

#[test]
fn feed_and_replay_that_name_different_streams_are_both_dropped() {
    let foreign = head_of(OTHER, START, START);
    let fault = Verdict::Reconnect(Fault::Streams { expected: STREAM, found: OTHER });
    assert_eq!(fetching(START, true).reply(&foreign), fault);
    assert_eq!(reading(START).feed(&foreign), fault);
}

#[test]
fn a_stream_that_another_address_serves_is_parked_until_it_is_granted() {
    let here = at(16, 1);
    let elsewhere = Claim { granted: false, home: false, at: Some(here), had: None };
    let (mut cursor, verdict) = met(&head(START, here), elsewhere);
    assert_eq!(verdict, probe(here));
    cursor.reply(&head(START, here));
    assert_eq!(cursor.reply(&end()), Verdict::Park);
    assert_eq!(cursor.again(), Verdict::Ask(Question::Claim(STREAM)));
    let moved = at(18, 2);
    assert_eq!(cursor.answer(Answer::Claim(Claim { at: Some(moved), ..elsewhere })), probe(moved));
    cursor.reply(&head(START, moved));
    assert_eq!(cursor.reply(&end()), Verdict::Park);
    cursor.again();
    let granted = Claim { granted: true, at: Some(moved), ..elsewhere };
    assert_eq!(cursor.answer(Answer::Claim(granted)), fetch(moved, FeedSocket::Close));
}

#[test]
fn a_stream_that_another_address_is_about_to_begin_is_parked() {
    let claim = Claim { granted: false, home: false, at: None, had: None };
    let (mut cursor, verdict) = met(&head(START, at(4, 4)), claim);
    assert_eq!(verdict, Verdict::Park);
    assert_eq!(cursor.again(), Verdict::Ask(Question::Claim(STREAM)));
}

#[test]
fn an_unknown_version_stops_the_stream_and_other_bytes_the_connection() {
    let newer = DecodeError::Version { kind: "block", version: b'2' };
    assert_eq!(reading(START).undecodable(newer), Verdict::Refuse(Refusal::Version(newer)));
    assert_eq!(fetching(START, true).undecodable(newer), Verdict::Refuse(Refusal::Version(newer)));
    let short = DecodeError::Short(3);
    assert_eq!(reading(START).undecodable(short), Verdict::Reconnect(Fault::Undecodable(short)));
}

#[test]
fn what_has_no_place_ends_the_connection_and_then_nothing_counts() {
    for message in [end(), fork(START), Message::Fetch(request(START, 0))] {
        assert!(matches!(reading(START).feed(&message), Verdict::Reconnect(Fault::Unexpected(_))));
        assert!(matches!(fetching(START, true).reply(&message), Verdict::Reconnect(Fault::Unexpected(_))));
    }
    let mut cursor = reading(START);
    assert_eq!(cursor.answer(Answer::Boundary(None)), unexpected("answer"));
    assert_eq!(cursor.feed(&head(START, at(9, 9))), Verdict::Ignore);
    assert_eq!(cursor.reply(&end()), Verdict::Ignore);
    assert_eq!(cursor.undecodable(DecodeError::Short(3)), Verdict::Ignore);
    assert_eq!(cursor.start(), Verdict::Read);
}
