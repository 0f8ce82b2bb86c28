/**
 * The other side of scale.ts's bare echo: a message of 8 kB goes back, a short one is answered with 8 kB. Tells its port to who forked it, and ends with
 * them.
 */
import type { AddressInfo } from 'node:net';
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false });
const page = Buffer.alloc(8192);
server.on('connection', (socket) =>
  socket.on('message', (message) => socket.send((message as Buffer).length < page.length ? page : message)),
);
server.on('listening', () => process.send?.((server.address() as AddressInfo).port));
process.on('disconnect', () => process.exit(0));
