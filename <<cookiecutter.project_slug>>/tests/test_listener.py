"""The door of a listening socket: who stands in it is served, who comes later is not let in."""

import select
import socket
from contextlib import closing

from <<cookiecutter.__package>>.workers.listener import refuse_new_connections


def test_a_closed_door_loses_nobody_who_was_let_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiting = [socket.create_connection(listener.getsockname(), 5) for _ in range(5)]
        refuse_new_connections(listener)
        late = socket.socket()
        late.setblocking(False)
        late.connect_ex(listener.getsockname())
        assert not select.select([], [late], [], 0.2)[1], "somebody got in"
        for client in waiting:
            client.sendall(b"a request")
            with closing(client), listener.accept()[0] as accepted:
                accepted.settimeout(5)
                assert accepted.recv(100) == b"a request"
                accepted.sendall(b"an answer")
                assert client.recv(100) == b"an answer"
        late.close()


def test_a_socket_that_takes_no_filter_is_left_as_it_is() -> None:
    with socket.socket() as closed:
        closed.close()
        refuse_new_connections(closed)
