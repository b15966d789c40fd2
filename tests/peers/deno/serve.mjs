// Deno.serve as a server of the matrix: `serve.mjs CERT KEY PORT` answers any request. It can neither ask for client
// certificates nor be held to one version of TLS.
const [cert, key, port] = Deno.args;
Deno.serve({
  port: Number(port),
  hostname: "0.0.0.0",
  cert: Deno.readTextFileSync(cert),
  key: Deno.readTextFileSync(key),
}, () => new Response("ok\n", { headers: { connection: "close" } }));
