/**
 * The I/O hosts of pages that have no shared memory: their computes send what they block on by synchronous HTTP requests (smgr-plugin/bridge/http-bridge.ts).
 *
 *   POST   /api/v1/bridge            OpenSession -> the start of a compute
 *   POST   /api/v1/bridge/:session   a request of the compute, or (empty) a sign of life
 *   DELETE /api/v1/bridge/:session   the compute has ended
 *
 * Step on the path: a tab's compute -> here -> I/O host -> pageserver and safekeepers of the repository.
 *
 * Invariants
 * - a session's requests are done one after another; WAL is taken once, by its offset, however often it is sent
 * - `flush` answers 1 only when the quorum has the WAL
 * - a session that nothing is heard of for `sessionIdleMaxMs` ends; what it had acknowledged is durable
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isPageliteError, messageOf, PageliteError } from '../../engine/errors.ts';
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { nodeId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import type { Log } from '../../engine/services.ts';
import { AsyncBridge } from '../../smgr-plugin/bridge/async-bridge.ts';
import { op } from '../../smgr-plugin/bridge/bridge-layout.ts';
import {
  type BridgeError,
  type BridgeRequest,
  decodeRequest,
  encodeStart,
  flushOp,
  flushWaitMs,
  parseOpenSession,
  requestBytesMax,
  sessionIdleMaxMs,
} from '../../smgr-plugin/bridge/http-bridge.ts';
import { type ComputeStart, IoHost } from '../../smgr-plugin/bridge/io-host.ts';
import type { Repository } from '../control-plane/repository.ts';
import { pagestreamPath, wsUrl } from '../net/url.ts';
import { connectWebSocket } from '../net/ws-channel.ts';
import { nodeClock, nodeRandom } from '../process/node-host.ts';
import { connectSafekeeper } from '../safekeeper/connect.ts';

export const bridgePath = '/api/v1/bridge';
/** Each has 10 MB of shared memory. */
const sessionsMax = 64;
const idleCheckMs = 5_000;
/** What a compute may ask through here; `more` and `bye` are the session's own. */
const pageOps: ReadonlySet<number> = new Set([op.getPages, op.getRelSize, op.listRels, op.readWal, op.ping]);

export class BridgeSessions {
  readonly #repository: Repository;
  readonly #log: Log;
  readonly #idleMaxMs: number;
  readonly #sessions = new Map<string, Session>();
  readonly #timer: NodeJS.Timeout;

  constructor(repository: Repository, log: Log, idleMaxMs: number = sessionIdleMaxMs) {
    this.#repository = repository;
    this.#log = log;
    this.#idleMaxMs = idleMaxMs;
    this.#timer = setInterval(() => this.#endIdle(), Math.min(idleCheckMs, idleMaxMs)).unref();
  }

  /** Answers requests below `bridgePath`. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const name = pathname.slice(bridgePath.length + 1);
    try {
      const bytes = await this.#answer(request, name);
      response.writeHead(200, { 'content-type': 'application/octet-stream', 'cache-control': 'no-store' }).end(bytes);
    } catch (error) {
      // What a request asks wrongly, or a page that cannot be read, is that request's; a session that is over is over.
      const fatal = name === '' || (this.#sessions.get(name)?.isOver ?? true);
      const known = isPageliteError(error) ? error : new PageliteError('unavailable', messageOf(error));
      if (known !== error) this.#log.error('a bridge request failed', { error: messageOf(error) });
      response.writeHead(409, { 'content-type': 'application/json', 'cache-control': 'no-store' });
      response.end(JSON.stringify({ fatal, error: known.toJSON() } satisfies BridgeError));
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await Promise.all([...this.#sessions.keys()].map((name) => this.#end(name)));
  }

  async #answer(request: IncomingMessage, name: string): Promise<Uint8Array> {
    const body = await readBody(request);
    if (request.method === 'DELETE') {
      await this.#end(name);
      return new Uint8Array(0);
    }
    if (request.method !== 'POST') throw new PageliteError('invalid', `${request.method} is not known here`);
    if (name === '') return this.#open(body);
    const session = this.#sessions.get(name);
    if (!session) {
      const text = 'the session of this page has ended: the server was started again, or nothing was heard of the page';
      throw new PageliteError('closed', `${text}. What was committed is there: connect again`);
    }
    return session.request(body);
  }

  async #open(body: Uint8Array): Promise<Uint8Array> {
    if (this.#sessions.size >= sessionsMax) {
      throw new PageliteError('unavailable', `${sessionsMax} pages without shared memory are open already`);
    }
    const { id, readOnlyAt } = parseOpenSession(JSON.parse(Buffer.from(body).toString()));
    const { session, start } = await Session.open(this.#repository, this.#log, id, readOnlyAt);
    const name = randomUUID();
    this.#sessions.set(name, session);
    return encodeStart(name, start);
  }

  #endIdle(): void {
    const now = performance.now();
    for (const [name, session] of this.#sessions) {
      if (now - session.heardAtMs < this.#idleMaxMs) continue;
      this.#log.info('a page is gone', { session: name });
      void this.#end(name);
    }
  }

  async #end(name: string): Promise<void> {
    const session = this.#sessions.get(name);
    this.#sessions.delete(name);
    await session?.close();
  }
}

class Session {
  readonly #pages: RemotePageService;
  readonly #ioHost: IoHost;
  readonly #bridge: AsyncBridge;
  #last: Promise<unknown> = Promise.resolve();
  #walTaken = 0;
  #underWay = 0;
  #heardAtMs = performance.now();

  private constructor(pages: RemotePageService, ioHost: IoHost, bridge: AsyncBridge) {
    this.#pages = pages;
    this.#ioHost = ioHost;
    this.#bridge = bridge;
  }

  static async open(
    repository: Repository,
    log: Log,
    id: TenantTimelineId,
    readOnlyAt: Lsn | null,
  ): Promise<{ session: Session; start: ComputeStart }> {
    const { safekeepers, safekeepersGeneration } = repository.readConfig();
    const pages = new RemotePageService({
      id,
      // Read anew: a pageserver that was started again may have another port.
      connect: () =>
        connectWebSocket(
          wsUrl(repository.connectHost, repository.readConfig().pageserver.pgPort, pagestreamPath),
          repository.tokensFor('pageserver')(),
        ),
      clock: nodeClock,
      random: nodeRandom,
      log,
    });
    const ioHost = new IoHost({
      pages,
      wal: safekeepers.map(({ id, pgPort }) =>
        connectSafekeeper(
          { id: nodeId(id), host: repository.connectHost, port: pgPort },
          repository.tokensFor('safekeeper'),
        ),
      ),
      safekeepersGeneration,
      mode: readOnlyAt === null ? 'primary' : { readOnlyAt },
      clock: nodeClock,
      random: nodeRandom,
      log,
    });
    try {
      const start = await ioHost.start();
      return { session: new Session(pages, ioHost, new AsyncBridge(start.bridge!)), start };
    } catch (error) {
      pages.close();
      throw error;
    }
  }

  /** A request that is under way is a sign of life, too. */
  get heardAtMs(): number {
    return this.#underWay > 0 ? performance.now() : this.#heardAtMs;
  }

  get isOver(): boolean {
    return this.#ioHost.failure !== null;
  }

  async request(body: Uint8Array): Promise<Uint8Array> {
    this.#heardAtMs = performance.now();
    if (this.#ioHost.failure) throw this.#ioHost.failure;
    if (body.length === 0) return body;
    const request = decodeRequest(body);
    this.#underWay++;
    const done = this.#last.then(() => this.#do(request));
    this.#last = done.catch(() => {});
    try {
      return await done;
    } finally {
      this.#underWay--;
      this.#heardAtMs = performance.now();
    }
  }

  async close(): Promise<void> {
    if (!this.isOver) this.#bridge.bye();
    await this.#ioHost.close();
    this.#pages.close();
  }

  async #do({ op: code, args, walOffset, wal }: BridgeRequest): Promise<Uint8Array> {
    await this.#takeWal(walOffset, wal);
    if (code === flushOp) return Uint8Array.of((await this.#bridge.flushWal(flushWaitMs)) ? 1 : 0);
    if (!pageOps.has(code)) throw new PageliteError('invalid', `a bridge request with op ${code}`);
    return this.#bridge.request(code, args);
  }

  async #takeWal(offset: number, wal: Uint8Array): Promise<void> {
    if (offset > this.#walTaken) {
      throw new PageliteError('invalid', `WAL at ${offset} where ${this.#walTaken} is next`);
    }
    const fresh = wal.subarray(Math.min(wal.length, this.#walTaken - offset));
    await this.#bridge.pushWal(fresh);
    this.#walTaken += fresh.length;
  }
}

async function readBody(request: IncomingMessage): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length;
    if (size > requestBytesMax) throw new PageliteError('invalid', `a bridge request above ${requestBytesMax} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}
