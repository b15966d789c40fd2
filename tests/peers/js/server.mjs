// node:tls as a server of the matrix, run by Node.js, Bun and Deno: `server.mjs CA CERT KEY PORT tls1.2|tls1.3 on|off
// [TICKET_KEY]` answers one request per connection. Without tickets it keeps the sessions itself, as an application must.
import fs from "node:fs";
import process from "node:process";
import tls from "node:tls";
import { constants } from "node:crypto";

const [ca, cert, key, port, version, tickets, ticketKey] = process.argv.slice(2);
const protocol = version === "tls1.2" ? "TLSv1.2" : "TLSv1.3";
const server = tls.createServer({
  ca: fs.readFileSync(ca),
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  minVersion: protocol,
  maxVersion: protocol,
  requestCert: true,
  rejectUnauthorized: true,
  ...(tickets === "off" && { secureOptions: constants.SSL_OP_NO_TICKET }),
  ...(ticketKey && { ticketKeys: fs.readFileSync(ticketKey) }),
}, (socket) => {
  socket.on("error", () => {});
  socket.once("data", () => socket.end("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"));
});
if (tickets === "off") {
  const sessions = new Map();
  server.on("newSession", (id, session, done) => {
    sessions.set(id.toString("hex"), session);
    done();
  });
  server.on("resumeSession", (id, done) => done(null, sessions.get(id.toString("hex")) ?? null));
}
// A connection that fails is the client's to report.
server.on("tlsClientError", () => {});
server.listen(Number(port), "0.0.0.0");
