/**
 * A safekeeper without anything of one: what comes over its WebSocket is written to a file and synchronised, and a few bytes go back. The least that a commit
 * takes between processes on this machine. Tells its port to who forked it, and ends with them.
 */
import { open } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { WebSocketServer } from 'ws';
import { walSegmentSize } from '../../engine/limits.ts';

const file = await open(process.argv[2]!, 'w+');
await file.write(Buffer.alloc(walSegmentSize));
await file.sync();
const answer = Buffer.alloc(48);
let at = 0;
const server = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false });
server.on('connection', (socket) =>
  socket.on('message', async (data) => {
    const bytes = data as Buffer;
    at = (at + bytes.length) % (walSegmentSize - bytes.length);
    await file.write(bytes, 0, bytes.length, at);
    await file.datasync();
    socket.send(answer);
  }),
);
server.on('listening', () => process.send?.((server.address() as AddressInfo).port));
process.on('disconnect', () => process.exit(0));
