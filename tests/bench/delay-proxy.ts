/**
 * A way to a port that takes longer: a worker thread of the benchmarks. Every byte arrives `delayMs` later, in both directions, in order, and without a limit
 * on how much is under way. Tells its port to who started it.
 */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';

const { port, delayMs } = workerData as { port: number; delayMs: number };

function delay(from: Socket, to: Socket): void {
  // Timers of one duration fire in the order in which they were set.
  from.on('data', (bytes) => setTimeout(() => to.write(bytes), delayMs));
  from.on('end', () => setTimeout(() => to.end(), delayMs));
  from.on('error', () => to.destroy());
  from.on('close', () => setTimeout(() => to.destroy(), delayMs));
}

const server = createServer({ noDelay: true }, (near) => {
  const far = connect({ port, host: '127.0.0.1', noDelay: true });
  delay(near, far);
  delay(far, near);
});
server.listen(0, '127.0.0.1', () => parentPort!.postMessage((server.address() as AddressInfo).port));
