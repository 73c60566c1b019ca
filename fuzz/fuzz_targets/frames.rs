//! Frames between the front and a worker. The input is the limit, the size of the pieces that
//! the bytes arrive in, and the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use p11_kms::token::frame::{
    BadFrame, Inbox, MAX_ANSWER, MAX_JOB, decode_answer, decode_job, encode_answer, encode_job,
};

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (is_worker, piece, bytes) = input;
    let limit = if is_worker { MAX_JOB } else { MAX_ANSWER };
    let (expected, end) = cut(bytes, limit);

    let mut inbox = Inbox::new(limit);
    let mut found = Vec::new();
    let result = bytes.chunks(usize::from(piece).max(1)).try_for_each(|piece| {
        feed(&mut inbox, piece, &mut |body| {
            check_job(body);
            check_answer(body);
            found.push(body.to_vec());
        })
    });
    assert_eq!(found, expected);
    match end {
        End::Long(len) => assert_eq!(result, Err(BadFrame::Long(len))),
        End::Rest(rest) => {
            assert_eq!(result, Ok(()));
            assert_eq!(inbox.is_empty(), rest == 0);
        }
    }
});

/// What comes after the last whole frame.
enum End {
    /// That many bytes of another one.
    Rest(usize),
    /// A frame of that length, over the limit.
    Long(usize),
}

/// The frames in these bytes, found in the simplest way.
fn cut(mut bytes: &[u8], limit: usize) -> (Vec<&[u8]>, End) {
    let mut frames = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let len = u32::from_le_bytes(*len) as usize;
        if len > limit {
            return (frames, End::Long(len));
        }
        let Some((frame, rest)) = rest.split_at_checked(len) else { break };
        frames.push(frame);
        bytes = rest;
    }
    (frames, End::Rest(bytes.len()))
}

/// As the front and the worker read: into the room that there is, then every whole frame.
fn feed(inbox: &mut Inbox, mut piece: &[u8], take: &mut impl FnMut(&[u8])) -> Result<(), BadFrame> {
    while !piece.is_empty() {
        let room = inbox.room();
        let (now, later) = piece.split_at(piece.len().min(room.len()));
        room[..now.len()].copy_from_slice(now);
        inbox.filled(now.len());
        piece = later;
        while let Some(body) = inbox.next_frame()? {
            take(body);
        }
        inbox.wipe();
    }
    Ok(())
}

fn check_job(body: &[u8]) {
    if let Ok(job) = decode_job(body) {
        let frame = encode_job(job.operation, job.deadline, &job.kek, job.payload);
        assert_eq!(&frame[..4], (body.len() as u32).to_le_bytes());
        assert_eq!(&frame[4..], body);
    }
}

fn check_answer(body: &[u8]) {
    if let Ok(answer) = decode_answer(body) {
        let mut frame = Vec::new();
        encode_answer(&mut frame, answer.as_ref().copied());
        let (len, again) = frame.split_first_chunk().unwrap();
        assert_eq!(u32::from_le_bytes(*len) as usize, again.len());
        assert_eq!(decode_answer(again), Ok(answer));
    }
}
