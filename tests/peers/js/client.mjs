// node:tls as a client of the matrix: `client.mjs CA CERT KEY HOST` obeys lines on stdin (../README.md).
import fs from "node:fs";
import readline from "node:readline";
import tls from "node:tls";

const PATIENCE = 10_000;
const [ca, cert, key] = process.argv.slice(2, 5).map((file) => fs.readFileSync(file));
const host = process.argv[5];
const slots = new Map();

function connect(slot, version, localAddress, target, port) {
  const protocol = version === "tls1.2" ? "TLSv1.2" : "TLSv1.3";
  const { session, server } = slots.get(slot) ?? {};
  return new Promise((answer) => {
    let seen = "error the handshake did not end", name, last = session;
    const socket = tls.connect({
      ca, cert, key, session, localAddress, port, host: target, servername: host,
      minVersion: protocol, maxVersion: protocol, timeout: PATIENCE,
    });
    socket.on("secureConnect", () => {
      const reused = socket.isSessionReused();
      // Of a resumed session Node.js does not show the certificate.
      name = reused ? server : socket.getPeerCertificate().subject.CN;
      seen = `ok ${Number(session !== undefined)} ${Number(reused)} ${name}`;
      socket.write("GET / HTTP/1.0\r\n\r\n");
    });
    socket.on("session", (given) => { last = given; });
    socket.on("timeout", () => socket.destroy(new Error("timed out")));
    socket.on("error", (error) => {
      // Some servers end with a reset after their answer.
      if (error.code !== "ECONNRESET" || !seen.startsWith("ok")) seen = `error ${error.message}`;
    });
    socket.on("close", () => {
      if (last !== undefined) slots.set(slot, { session: last, server: name });
      answer(seen);
    });
    socket.resume();
  });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [order, slot, ...words] = line.trim().split(" ");
  let answer = `error not understood: ${line}`;
  if (order === "forget") {
    slots.delete(slot);
    answer = "ok";
  } else if (order === "connect") {
    answer = await connect(slot, words[0], words[1], words[2], Number(words[3]));
  }
  console.log(answer.replaceAll("\n", " "));
}
