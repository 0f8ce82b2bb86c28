/**
 * A PGlite in a worker as the page sees it: PGlite's whole interface over messages of PostgreSQL's wire protocol.
 *
 * PGlite's own base class makes queries out of such messages, six for one query, with a hop to the worker each. Here they travel together: the values go
 * along with the first message, the worker does the rest of the query, and the answers wait here for the messages that would have asked for them. Where the
 * page's own serializers have to see the values it is two hops: Parse with Describe, then Bind, Describe, Execute and Sync. Answers are parsed here, so
 * that errors keep PostgreSQL's fields, and rows cross as bytes that are moved, not copied.
 *
 * Invariants
 * - messages reach PostgreSQL in the order in which they were given
 * - after `ended` has resolved every call rejects with its reason
 */
import {
  type ExecProtocolOptions,
  type ExecProtocolResult,
  type Extensions,
  messages,
  type PGliteInterface,
  type PGliteInterfaceExtensions,
  protocol,
  type QueryOptions,
  type Results,
  type Transaction,
} from '@electric-sql/pglite';
import { PGliteWorker } from '@electric-sql/pglite/worker';
import { PageliteError } from '../engine/errors.ts';
import type { BranchConnection, BranchPlace, PageCounters } from './api.ts';
import type { PlaceCounters } from './compute-place.ts';
import type { ComputeMethods, ExecAnswer } from './compute-worker.ts';
import { Mutex } from './mutex.ts';
import type { ReadyExtensions } from './page-extensions.ts';
import type { Remote, WorkerLink } from './worker-rpc.ts';

type Message = ExecProtocolResult['messages'][number];
type Notify = (payload: string) => void;

/** What PGlite's base class has; the package exports only classes that extend it. */
interface Base extends Pick<PGliteWorker, 'sql' | 'exec' | 'describeQuery' | 'runExclusive' | 'refreshArrayTypes'> {
  serializers: PGliteWorker['serializers'];
  parsers: PGliteWorker['parsers'];
  query<T>(text: string, params?: unknown[], options?: QueryOptions): Promise<Results<T>>;
  transaction<T>(run: (tx: Transaction) => Promise<T>): Promise<T>;
  _initArrayTypes(options?: { force?: boolean }): Promise<void>;
}
const BasePGlite = Object.getPrototypeOf(PGliteWorker) as abstract new () => Base;

/** First bytes of the wire protocol's messages. */
const kind = { parse: 0x50, describe: 0x44, bind: 0x42, execute: 0x45, query: 0x51, sync: 0x53 } as const;

/** Travels with a query's options through the base class to its first message. */
const valuesOf = Symbol('values');
type Valued = { readonly [valuesOf]?: readonly unknown[] };
type OwnOptions = ExecProtocolOptions & Valued;

/** What the base class sends after a message of its own, whatever the answer is. */
const following: { readonly [first: number]: Uint8Array } = {
  [kind.parse]: protocol.serialize.describe({ type: 'S' }),
  [kind.execute]: protocol.serialize.sync(),
  [kind.query]: protocol.serialize.sync(),
};

export interface ConnectionOptions {
  readonly branch: string;
  readonly place: BranchPlace;
  readonly readOnlyLsn: string | null;
  readonly worker: WorkerLink<ComputeMethods>;
  /** From the storage worker; null once the compute is closed there. */
  readonly counters: () => Promise<PlaceCounters | null>;
  /** After the worker has closed its PGlite and may open another one, or has ended. */
  readonly onClosed: () => Promise<void>;
}

export class Connection extends BasePGlite implements AsyncDisposable {
  readonly branch: string;
  readonly place: BranchPlace;
  readonly readOnlyLsn: string | null;
  readonly debug = 0 as const;
  readonly ready = true;
  readonly waitReady: Promise<void> = Promise.resolve();
  readonly ended: Promise<Error>;
  readonly #options: ConnectionOptions;
  readonly #queries = new Mutex();
  readonly #transactions = new Mutex();
  readonly #listeners = new Map<string, Set<Notify>>();
  readonly #allListeners = new Set<(channel: string, payload: string) => void>();
  readonly #parser = new protocol.Parser();
  /** Given, and not yet sent. */
  #held: Uint8Array[] = [];
  /** Answers to what was sent ahead of its turn, and to which messages. */
  #ahead: { readonly to: number; readonly messages: Message[] }[] = [];
  readonly #serializers: Base['serializers'];
  /** The page has serializers of its own: they must see the values. */
  #ownSerializers = false;
  #isLearningTypes = false;
  #hasBlob = false;
  #writtenBlob: Blob | undefined;
  #reportEnd: (error: Error) => void = () => {};
  #failure: Error | null = null;
  #closing: Promise<void> | null = null;
  #extensions: ReadyExtensions | undefined;
  #lastCounters: PageCounters = { fromCache: 0, fromTab: 0, fromServer: 0, bytesFromServer: 0 };

  constructor(options: ConnectionOptions) {
    super();
    this.#options = options;
    this.branch = options.branch;
    this.place = options.place;
    this.readOnlyLsn = options.readOnlyLsn;
    this.ended = new Promise((resolve) => {
      this.#reportEnd = resolve;
    });
    this.#serializers = new Proxy(this.serializers, {
      set: (target, type, serializer) => {
        this.#ownSerializers ||= !this.#isLearningTypes;
        return Reflect.set(target, type, serializer);
      },
    });
    this.serializers = this.#serializers;
    options.worker.ended.then((error) => this.fail(error));
  }

  /** PostgreSQL runs. What is asked from now on waits behind the array types. */
  async begin(extensions: ReadyExtensions | undefined): Promise<void> {
    void this._initArrayTypes().catch(() => {});
    this.#extensions = extensions;
    await extensions?.begin();
  }

  get closed(): boolean {
    return this.#closing !== null;
  }

  async pageCounters(): Promise<PageCounters> {
    if (this.#failure || this.closed) return this.#lastCounters;
    const { worker, counters } = this.#options;
    const [reads, place] = await Promise.all([worker.call((remote) => remote.reads()), counters()]);
    if (place === null) return this.#lastCounters;
    const { pages, serverPages, bytesFromServer } = place;
    this.#lastCounters = {
      fromCache: reads.cacheHits,
      fromTab: Math.max(0, pages - serverPages),
      fromServer: serverPages + reads.serverPages,
      bytesFromServer: bytesFromServer + reads.serverBytes,
    };
    return this.#lastCounters;
  }

  /** It cannot go on: what waits, and every later call, rejects with the reason. */
  fail(error: Error): void {
    if (this.#failure || this.closed) return;
    this.#failure = error;
    this.#reportEnd(error);
    void this.close();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async terminate(): Promise<void> {
    const error = new PageliteError('cancelled', 'the connection was ended while it was working', {
      branch: this.branch,
    });
    this.fail(error);
    // A close that waits for what is under way.
    this.#failure ??= error;
    this.#options.worker.terminate(error);
    await this.#closing?.catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const { worker, onClosed } = this.#options;
    let problem: unknown = null;
    if (this.#failure === null) {
      await this.#extensions?.end().catch((error: unknown) => {
        problem = error;
      });
      // After what is under way; a query that was asked just now is in the queue a turn later.
      await new Promise((resolve) => setTimeout(resolve));
      const closing = this.#transactions.run(() => worker.call((remote) => remote.close()));
      await closing.catch((error: unknown) => {
        problem = error;
      });
    }
    // A worker that did not close in order is not opened again.
    if (this.#failure !== null || problem !== null) worker.terminate();
    this.#failure ??= new PageliteError('closed', 'the connection was closed');
    await onClosed();
    if (problem !== null) throw problem;
  }

  // Queries

  override query<T>(text: string, params?: unknown[], options?: QueryOptions): Promise<Results<T>> {
    return super.query<T>(text, params, this.#withValues(params, options));
  }

  override transaction<T>(run: (tx: Transaction) => Promise<T>): Promise<T> {
    return super.transaction((tx) => {
      const query: Transaction['query'] = (text, params, options) =>
        tx.query(text, params, this.#withValues(params, options));
      return run(Object.create(tx, { query: { value: query } }) as Transaction);
    });
  }

  override async _initArrayTypes(options: { force?: boolean } = {}): Promise<void> {
    this.#isLearningTypes = true;
    try {
      await super._initArrayTypes(options);
      if (options.force) await this.#options.worker.call((remote) => remote.refreshArrayTypes());
    } finally {
      this.#isLearningTypes = false;
    }
  }

  /** If the worker can do with them what this page would. */
  #withValues(params: readonly unknown[] = [], options: QueryOptions = {}): QueryOptions & Valued {
    const isOurs = !this.#ownSerializers && this.serializers === this.#serializers && !options.serializers;
    return isOurs && params.every(isPlain) ? { ...options, [valuesOf]: params } : options;
  }

  // Messages

  async execProtocolRaw(message: Uint8Array, _options: ExecProtocolOptions = {}): Promise<Uint8Array> {
    const batch = [...this.#takeHeld(), message];
    const { bytes } = await this.#ask((remote) => remote.exec(batch));
    return bytes;
  }

  async execProtocolRawStream(message: Uint8Array, options: { onRawData: (data: Uint8Array) => void }): Promise<void> {
    options.onRawData(await this.execProtocolRaw(message));
  }

  async execProtocol(message: Uint8Array, options: ExecProtocolOptions = {}): Promise<ExecProtocolResult> {
    const data = await this.execProtocolRaw(message, options);
    return { messages: this.#take(this.#parse(data), options), data };
  }

  /** The base class's own messages come with `syncToFs` false: only of those it is known what follows. */
  async execProtocolStream(message: Uint8Array, options: OwnOptions = {}): Promise<Message[]> {
    const first = message[0]!;
    const ahead = this.#takeAhead(first);
    if (ahead !== null) return this.#take(ahead, options);
    const values = options[valuesOf];
    if (first === kind.parse && values !== undefined)
      return this.#take(await this.#wholeQuery(message, values), options);
    const isOwn = options.syncToFs === false;
    if (isOwn && (first === kind.bind || (first === kind.describe && this.#held.length > 0))) {
      this.#held.push(message);
      return [];
    }
    const next = isOwn ? following[first] : undefined;
    const batch = [...this.#takeHeld(), message];
    const all = next === undefined ? batch : [...batch, next];
    const answer = await this.#ask((remote) => remote.exec(all));
    const parts = this.#split(answer);
    if (next !== undefined) this.#ahead = [{ to: next[0]!, messages: parts.pop()! }];
    return this.#take(parts.flat(), options);
  }

  /** The answer to Parse; what follows is ahead. */
  async #wholeQuery(parse: Uint8Array, values: readonly unknown[]): Promise<Message[]> {
    const answer = await this.#ask((remote) => remote.query(parse, values));
    const [parsed, described, executed, synced] = this.#split(answer);
    const isBound = answer.lengths[2]! > 0;
    this.#ahead = [
      { to: kind.describe, messages: described! },
      // Without an answer, this page refuses the values itself, or PostgreSQL has.
      ...(isBound
        ? [
            { to: kind.bind, messages: [] },
            { to: kind.describe, messages: [] },
            { to: kind.execute, messages: executed! },
          ]
        : []),
      { to: kind.sync, messages: synced! },
    ];
    return parsed!;
  }

  #split({ bytes, lengths, blob }: ExecAnswer): Message[][] {
    if (blob !== undefined) this.#writtenBlob = blob;
    let end = 0;
    return lengths.map((length) => {
      end += length;
      return this.#parse(bytes.subarray(end - length, end));
    });
  }

  /** After an error what is between it and Sync is not asked for any more. */
  #takeAhead(first: number): Message[] | null {
    const index = this.#ahead.findIndex(({ to }) => to === first);
    const found = index < 0 ? null : this.#ahead[index]!.messages;
    this.#ahead = index < 0 ? [] : this.#ahead.slice(index + 1);
    return found;
  }

  async #ask(call: (remote: Remote<ComputeMethods>) => Promise<ExecAnswer>): Promise<ExecAnswer> {
    if (this.#failure) throw this.#failure;
    try {
      return await this.#options.worker.call(call);
    } catch (error) {
      await this.#learnFailure();
      throw this.#failure ?? error;
    }
  }

  /** Whether it was only this query, or the compute cannot go on. */
  async #learnFailure(): Promise<void> {
    if (this.#failure) return;
    const failure = await this.#options.worker.call((remote) => remote.failure()).catch(() => null);
    if (failure !== null) this.fail(PageliteError.fromJSON(failure));
  }

  #takeHeld(): Uint8Array[] {
    const held = this.#held;
    this.#held = [];
    return held;
  }

  #parse(bytes: Uint8Array): Message[] {
    const parsed: Message[] = [];
    this.#parser.parse(bytes as Uint8Array<ArrayBuffer>, (message) => parsed.push(message as Message));
    return parsed;
  }

  /** Tells who listens; throws PostgreSQL's error if there is one. */
  #take(answer: Message[], { throwOnError = true, onNotice }: ExecProtocolOptions): Message[] {
    let failure: Error | null = null;
    for (const message of answer) {
      if (message instanceof messages.DatabaseError) failure ??= message;
      else if (message instanceof messages.NoticeMessage) onNotice?.(message);
      else if (message instanceof messages.NotificationResponseMessage) this.#notify(message.channel, message.payload);
    }
    if (failure !== null && throwOnError) throw failure;
    return answer;
  }

  // What PGlite's base class asks for

  async syncToFs(): Promise<void> {}

  async _checkReady(): Promise<void> {
    if (this.#failure) throw this.#failure;
    if (this.closed) throw new PageliteError('closed', 'the connection was closed');
  }

  async _handleBlob(blob?: File | Blob): Promise<void> {
    if (blob === undefined) return;
    this.#hasBlob = true;
    await this.#options.worker.call((remote) => remote.handleBlob(blob));
  }

  async _getWrittenBlob(): Promise<File | Blob | undefined> {
    const blob = this.#writtenBlob;
    this.#writtenBlob = undefined;
    return blob;
  }

  async _cleanupBlob(): Promise<void> {
    if (!this.#hasBlob) return;
    this.#hasBlob = false;
    await this.#options.worker.call((remote) => remote.cleanupBlob());
  }

  _runExclusiveQuery<T>(run: () => Promise<T>): Promise<T> {
    return this.#queries.run(run);
  }

  _runExclusiveTransaction<T>(run: () => Promise<T>): Promise<T> {
    return this.#transactions.run(run);
  }

  async dumpDataDir(): Promise<File | Blob> {
    throw new PageliteError('invalid', 'a branch is not dumped as a data directory: use pg_dump');
  }

  // Notifications

  async listen(channel: string, callback: Notify, tx?: Transaction): Promise<(tx?: Transaction) => Promise<void>> {
    const name = channelName(channel);
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(callback));
    await (tx ?? this).exec(`LISTEN ${channel}`);
    return (inTransaction) => this.unlisten(channel, callback, inTransaction);
  }

  async unlisten(channel: string, callback?: Notify, tx?: Transaction): Promise<void> {
    const name = channelName(channel);
    const listeners = this.#listeners.get(name);
    if (callback) listeners?.delete(callback);
    else listeners?.clear();
    if (!listeners || listeners.size > 0) return;
    this.#listeners.delete(name);
    await (tx ?? this).exec(`UNLISTEN ${channel}`);
  }

  onNotification(callback: (channel: string, payload: string) => void): () => void {
    this.#allListeners.add(callback);
    return () => this.offNotification(callback);
  }

  offNotification(callback: (channel: string, payload: string) => void): void {
    this.#allListeners.delete(callback);
  }

  #notify(channel: string, payload: string): void {
    for (const listener of this.#listeners.get(channel) ?? []) queueMicrotask(() => listener(payload));
    for (const listener of this.#allListeners) queueMicrotask(() => listener(channel, payload));
  }
}

/** Whether it is the same on the other side of a worker: no class of the page's, with a `toString` or `toJSON` of its own. */
function isPlain(value: unknown): boolean {
  if (value === null || value === undefined) return true;
  if (typeof value !== 'object') return typeof value !== 'function' && typeof value !== 'symbol';
  if (Array.isArray(value)) return value.every((item) => typeof item !== 'object' || item === null);
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Date.prototype || prototype === Uint8Array.prototype;
}

/** As PostgreSQL folds an identifier. */
function channelName(channel: string): string {
  return channel.startsWith('"') && channel.endsWith('"') ? channel.slice(1, -1) : channel.toLowerCase();
}

/** The type checker's word that a Connection is what the API promises: the base class and its extensions have the rest. */
export const asBranchConnection = <E extends Extensions>(
  connection: Connection,
): BranchConnection & PGliteInterfaceExtensions<E> =>
  connection as unknown as Connection & PGliteInterface & PGliteInterfaceExtensions<E>;
