#!/usr/bin/env escript
%% Erlang's ssl as a server of the matrix: `server.escript CA CERT KEY PORT tls1.2|tls1.3` answers one request per
%% connection. TLS 1.2 has session IDs only; tickets of TLS 1.3 are stateless.

main([Ca, Cert, Key, Port, Version]) ->
    {ok, _} = application:ensure_all_started(ssl),
    Own = case Version of
        "tls1.2" -> [{versions, ['tlsv1.2']}];
        "tls1.3" -> [{versions, ['tlsv1.3']}, {session_tickets, stateless}]
    end,
    {ok, Listener} = ssl:listen(list_to_integer(Port), [
        {cacertfile, Ca}, {certfile, Cert}, {keyfile, Key}, {verify, verify_peer}, {fail_if_no_peer_cert, true},
        {reuseaddr, true}, {active, false}, {mode, binary}, {backlog, 256} | Own]),
    accept(Listener).

accept(Listener) ->
    {ok, Socket} = ssl:transport_accept(Listener),
    Pid = spawn(fun() -> receive go -> answer(Socket) end end),
    ssl:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener).

%% A connection that fails is the client's to report.
answer(Socket) ->
    case ssl:handshake(Socket, 10000) of
        {ok, Tls} ->
            ssl:recv(Tls, 0, 10000),
            ssl:send(Tls, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"),
            ssl:close(Tls);
        {error, _} -> ok
    end.
