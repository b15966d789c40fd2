//! As much HTTP/1.1 as the lab needs: one request, one answer with a length.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};

use super::Connection;
use crate::payload::Sum;

/// Largest body kept in memory; of longer ones only length and sum are known.
const KEPT: usize = 4096;

/// A server's answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Bytes of the body.
    pub len: usize,
    /// SHA-256 of the body, in hexadecimal.
    pub sha256: String,
    head: Vec<u8>,
}

impl Response {
    /// The body's first 4096 bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }
}

/// The head of a request for a page or a file, after which the server closes.
pub(super) fn request(path: &str) -> String {
    head("GET", path, false)
}

fn head(verb: &str, path: &str, kept: bool) -> String {
    let then = if kept { "keep-alive" } else { "close" };
    format!("{verb} {path} HTTP/1.1\r\nHost: lab\r\nConnection: {then}\r\n\r\n")
}

impl Connection {
    /// Waits for the answer to a request that was sent already.
    ///
    /// # Errors
    /// When the answer breaks off or is not 200.
    pub(super) fn listen(&mut self, path: &str) -> Result<Response> {
        self.answer(|_| {}).with_context(|| format!("get {path}"))
    }

    /// The server is asked to keep the connection open behind its answers, or from now on to close
    /// it.
    pub fn keep_open(&mut self, kept: bool) {
        self.kept = kept;
    }

    /// Asks for a page or a file.
    ///
    /// # Errors
    /// When the answer breaks off or is not 200.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send(&head("GET", path, self.kept), &[])?;
        self.answer(|_| {}).with_context(|| format!("get {path}"))
    }

    /// As [`Connection::get`]; `progress` is told how many bytes of the body have come, after each
    /// read.
    ///
    /// # Errors
    /// When the answer breaks off or is not 200.
    pub fn get_watched(&mut self, path: &str, mut progress: impl FnMut(usize)) -> Result<Response> {
        let mut read = 0;
        self.get_each(path, |piece| {
            read += piece.len();
            progress(read);
        })
    }

    /// As [`Connection::get`]; `each` is given the body piece by piece, as it comes.
    ///
    /// # Errors
    /// When the answer breaks off or is not 200.
    pub fn get_each(&mut self, path: &str, each: impl FnMut(&[u8])) -> Result<Response> {
        self.send(&head("GET", path, self.kept), &[])?;
        self.answer(each).with_context(|| format!("get {path}"))
    }

    /// Asks for a file and reads it to its end without a look at it; returns its length.
    ///
    /// # Errors
    /// When the answer breaks off or is not 200.
    pub fn drain(&mut self, path: &str) -> Result<usize> {
        self.send(&head("GET", path, self.kept), &[])?;
        let mut reader = BufReader::with_capacity(64 * 1024, &mut self.stream);
        let (status, len) = read_head(&mut reader)?;
        let drained = std::io::copy(&mut reader.take(len as u64), &mut std::io::sink())?;
        if status != 200 || drained != len as u64 {
            bail!("get {path}: the server answered {status}, and {drained} of {len} bytes came");
        }
        Ok(len)
    }

    /// Uploads a file.
    ///
    /// # Errors
    /// When the connection breaks or the server does not take it.
    pub fn put(&mut self, path: &str, body: &[u8]) -> Result<Response> {
        self.put_watched(path, body, |_| {})
    }

    /// As [`Connection::put`]; `progress` is told how many bytes of the body are sent, before each
    /// 16 KiB.
    ///
    /// # Errors
    /// When the connection breaks or the server does not take it.
    pub fn put_watched(
        &mut self,
        path: &str,
        body: &[u8],
        mut progress: impl FnMut(usize),
    ) -> Result<Response> {
        const CHUNK: usize = 16 * 1024;
        let len = body.len();
        let head = head("PUT", path, self.kept);
        self.send(&format!("{}Content-Length: {len}\r\n\r\n", &head[..head.len() - 2]), &[])?;
        for (number, chunk) in body.chunks(CHUNK).enumerate() {
            progress(number * CHUNK);
            self.stream.write_all(chunk).context("send a body")?;
        }
        self.stream.flush().context("send a request")?;
        self.answer(|_| {}).with_context(|| format!("put {path}"))
    }

    /// Waits until the server has closed its side, so that the server is the one that closes first.
    ///
    /// # Errors
    /// When it resets the connection instead, or sends more.
    pub fn finish(&mut self) -> Result<()> {
        // TLS says goodbye first, then TCP does.
        let tls = self.stream.read(&mut [0; 1]).context("wait for the end of TLS")?;
        let tcp = self.stream.sock.read(&mut [0; 1]).context("wait for the end of TCP")?;
        if tls != 0 || tcp != 0 {
            bail!("the server sends more than its answer");
        }
        Ok(())
    }

    fn send(&mut self, head: &str, body: &[u8]) -> Result<()> {
        self.stream.write_all(head.as_bytes()).context("send a request")?;
        self.stream.write_all(body).context("send a body")?;
        self.stream.flush().context("send a request")
    }

    fn answer(&mut self, each: impl FnMut(&[u8])) -> Result<Response> {
        let mut reader = BufReader::with_capacity(64 * 1024, &mut self.stream);
        let (status, len) = read_head(&mut reader)?;
        let (head, sha256) = read_body(&mut reader, len, each)?;
        if !(200..300).contains(&status) {
            bail!("the server answered {status}");
        }
        Ok(Response { status, len, sha256, head })
    }
}

fn read_head(reader: &mut impl BufRead) -> Result<(u16, usize)> {
    let status = read_line(reader)?;
    let status = status
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no HTTP status line")?;
    let mut len = 0;
    loop {
        let line = read_line(reader)?.to_ascii_lowercase();
        if line.is_empty() {
            return Ok((status, len));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().context("read the body's length")?;
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line).context("read the answer's head")?;
    if !line.ends_with('\n') {
        bail!("the answer's head breaks off");
    }
    Ok(line.trim_end().to_owned())
}

fn read_body(
    reader: &mut impl Read,
    len: usize,
    mut each: impl FnMut(&[u8]),
) -> Result<(Vec<u8>, String)> {
    let (mut head, mut sum, mut buffer) = (Vec::new(), Sum::new(), vec![0; 64 * 1024]);
    let mut read = 0;
    while read < len {
        let wanted = buffer.len().min(len - read);
        let n = reader.read(&mut buffer[..wanted]).context("read the body")?;
        if n == 0 {
            bail!("the body ends after {read} of {len} bytes");
        }
        sum.update(&buffer[..n]);
        let keep = n.min(KEPT.saturating_sub(head.len()));
        head.extend_from_slice(&buffer[..keep]);
        read += n;
        each(&buffer[..n]);
    }
    Ok((head, sum.hex()))
}
