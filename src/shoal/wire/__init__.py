"""What goes over sockets: frames, the handshake, and the messages. The only place that knows bytes."""
