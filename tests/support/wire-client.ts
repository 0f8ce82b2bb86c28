/**
 * Clients of the wire listener for tests: an endpoint over a PGlite in memory, node-postgres clients, a raw connection that speaks
 * the protocol byte by byte, and real programs (psql, pgbench, pg_dump) where they are installed.
 */
import { execFile, spawnSync } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import pg from 'pg';
import type { Log } from '../../engine/services.ts';
import { type Endpoint, type EndpointOptions, startEndpoint } from '../../server/compute/endpoint.ts';
import { message } from '../../server/compute/pg-frames.ts';
import { distUrl } from './dist.ts';

export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} };

export function startTestEndpoint(options: Partial<EndpointOptions> = {}): Promise<Endpoint> {
  return startEndpoint({
    port: 0,
    log: silentLog,
    openBackend: { workerUrl: distUrl('server/compute/compute-worker.js') },
    ...options,
  });
}

export async function connectClient(endpoint: Endpoint, config: pg.ClientConfig = {}): Promise<pg.Client> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: endpoint.port,
    user: 'postgres',
    database: 'postgres',
    ...config,
  });
  // A connection that the server ends is an event of its own; the tests look at the rejected query.
  client.on('error', () => {});
  await client.connect();
  return client;
}

/** First column of the first row. */
export async function value(client: pg.Client, sql: string, parameters: unknown[] = []): Promise<unknown> {
  const { rows } = await client.query({ text: sql, values: parameters, rowMode: 'array' });
  return rows[0]?.[0];
}

/** The error that a promise rejects with; fails the test if it does not. */
export async function errorOf(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  return promise.then(
    () => {
      throw new Error('expected an error');
    },
    (error) => error,
  );
}

export interface RawMessage {
  readonly type: string;
  readonly body: Buffer;
}

/** A connection that sends what it is told and reads message by message. */
export class RawClient {
  readonly socket: Socket;
  readonly #messages: RawMessage[] = [];
  #bytes = Buffer.alloc(0);
  #wake: (() => void) | null = null;
  closed = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => this.#onData(chunk));
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
      this.#wake?.();
    });
  }

  static async open(endpoint: Endpoint): Promise<RawClient> {
    const socket = connect(endpoint.port, '127.0.0.1');
    await new Promise((resolve) => socket.once('connect', resolve));
    return new RawClient(socket);
  }

  /** Through startup, up to the first ReadyForQuery. */
  static async start(endpoint: Endpoint, parameters: Record<string, string> = {}): Promise<RawClient> {
    const client = await RawClient.open(endpoint);
    client.send(startupPacket({ user: 'postgres', database: 'postgres', ...parameters }));
    await client.until('Z');
    return client;
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  query(sql: string): void {
    this.send(message('Q', sql));
  }

  /** The next message, null once the connection is closed. */
  async next(): Promise<RawMessage | null> {
    while (this.#messages.length === 0 && !this.closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#messages.shift() ?? null;
  }

  /** Messages up to and including one of this type. */
  async until(type: string): Promise<RawMessage[]> {
    const messages: RawMessage[] = [];
    for (;;) {
      const next = await this.next();
      if (next === null)
        throw new Error(
          `closed before ${type}, after ${messages.map((each) => each.type + (each.type === 'E' ? errorField(each.body, 'M') : '')).join('')}`,
        );
      messages.push(next);
      if (next.type === type) return messages;
    }
  }

  /** Waits for the end of the connection; the messages before it. */
  async untilClosed(): Promise<RawMessage[]> {
    const messages: RawMessage[] = [];
    for (let next = await this.next(); next !== null; next = await this.next()) messages.push(next);
    return messages;
  }

  #onData(chunk: Buffer): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    while (this.#bytes.length >= 5 && this.#bytes.length > this.#bytes.readUInt32BE(1)) {
      const end = 1 + this.#bytes.readUInt32BE(1);
      this.#messages.push({ type: String.fromCharCode(this.#bytes[0]!), body: this.#bytes.subarray(5, end) });
      this.#bytes = this.#bytes.subarray(end);
    }
    this.#wake?.();
  }
}

export function startupPacket(parameters: Record<string, string>, version = 3 << 16): Buffer {
  const pairs = Object.entries(parameters).map(([name, text]) => `${name}\0${text}\0`);
  const body = Buffer.from(`${pairs.join('')}\0`);
  const header = Buffer.alloc(8);
  header.writeUInt32BE(8 + body.length, 0);
  header.writeUInt32BE(version, 4);
  return Buffer.concat([header, body]);
}

/** A field of an ErrorResponse: `C` the code, `M` the message. */
export function errorField(body: Buffer, field: string): string | undefined {
  return body
    .toString()
    .split('\0')
    .find((text) => text.startsWith(field))
    ?.slice(1);
}

/** True where a program is installed; says so once where it is not. */
export function hasProgram(name: string): boolean {
  const found = spawnSync(name, ['--version']).status === 0;
  if (!found) console.log(`${name} is not installed: its tests are left out`);
  return found;
}

export interface ProgramResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export function runProgram(
  endpoint: Endpoint,
  program: string,
  argumentList: readonly string[],
  input = '',
): Promise<ProgramResult> {
  const environment = {
    ...process.env,
    PGHOST: '127.0.0.1',
    PGPORT: String(endpoint.port),
    PGUSER: 'postgres',
    PGDATABASE: 'postgres',
  };
  return new Promise((resolve) => {
    const child = execFile(
      program,
      [...argumentList],
      { env: environment, maxBuffer: 256 * 1024 * 1024 },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), stdout, stderr }),
    );
    child.stdin?.end(input);
  });
}
