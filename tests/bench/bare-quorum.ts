/** Commits through processes that do nothing but write and synchronise (bare-quorum-server.ts): what this machine makes of three against one. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { quorumOf } from '../../engine/model/quorum.ts';
import { commitBytes } from './wal-writer.ts';

const serverPath = fileURLToPath(new URL('./bare-quorum-server.js', import.meta.url));

export class BareQuorum {
  readonly #processes: readonly ChildProcess[];
  readonly #sockets: readonly WebSocket[];
  /** Of each how many commits it has answered: an answer that nobody waited for must not count for the next commit. */
  readonly #answered: number[];
  #commits = 0;
  #onAnswer = () => {};

  private constructor(processes: readonly ChildProcess[], sockets: readonly WebSocket[]) {
    this.#processes = processes;
    this.#sockets = sockets;
    this.#answered = sockets.map(() => 0);
    for (const [i, socket] of sockets.entries()) {
      socket.on('message', () => {
        this.#answered[i]!++;
        this.#onAnswer();
      });
    }
  }

  static async start(dir: string, count: number): Promise<BareQuorum> {
    mkdirSync(dir);
    const processes = Array.from({ length: count }, (_, i) => fork(serverPath, [join(dir, `${i}`)], { execArgv: [] }));
    const sockets = await Promise.all(
      processes.map(async (process) => {
        const [port] = (await once(process, 'message')) as [number];
        const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
        await once(socket, 'open');
        return socket;
      }),
    );
    return new BareQuorum(processes, sockets);
  }

  /** Milliseconds of each, one after the other: until a majority has answered. */
  async commits(count: number): Promise<number[]> {
    const latencies: number[] = [];
    for (let i = 0; i < count; i++) latencies.push(await this.#commit());
    return latencies;
  }

  async #commit(): Promise<number> {
    const bytes = Buffer.alloc(commitBytes);
    const quorum = quorumOf(this.#sockets.length);
    const commit = ++this.#commits;
    const start = performance.now();
    await new Promise<void>((resolve) => {
      this.#onAnswer = () => {
        if (this.#answered.filter((count) => count >= commit).length >= quorum) resolve();
      };
      for (const socket of this.#sockets) socket.send(bytes);
    });
    return performance.now() - start;
  }

  close(): void {
    for (const socket of this.#sockets) socket.terminate();
    for (const process of this.#processes) process.disconnect();
  }
}
