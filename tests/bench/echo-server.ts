/** The other side of scale.ts's bare echo: answers every message with 8 kB. Tells its port to who forked it, and ends with them. */
import type { AddressInfo } from 'node:net';
import { WebSocketServer } from 'ws';

const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false });
const answer = Buffer.alloc(8192 + 30);
server.on('connection', (socket) => socket.on('message', () => socket.send(answer)));
server.on('listening', () => process.send?.((server.address() as AddressInfo).port));
process.on('disconnect', () => process.exit(0));
