/**
 * R1, W1. Entry of a compute's worker: one PGlite on one branch. This thread may block in `Atomics.wait` on its pages and its commits, as no page may.
 *
 * Started by connection.ts. `open` gets a port from which the storage worker's ComputeStart comes, so that the basebackup does not pass through the
 * page, and PGlite is loaded meanwhile. Then the page sends messages of PostgreSQL's wire protocol, and parses the answers itself. After `close` it may be
 * opened again: the next connection then needs no script from a network that may be away.
 */

import { type Extensions, protocol } from '@electric-sql/pglite';
import { must } from '../engine/assert.ts';
import { concatBytes } from '../engine/bytes.ts';
import { type ErrorJson, messageOf, PageliteError } from '../engine/errors.ts';
import type { ComputeBridge } from '../smgr-plugin/bridge/compute-bridge.ts';
import type { ComputeStart } from '../smgr-plugin/bridge/io-host.ts';
import { SyncBridge } from '../smgr-plugin/bridge/sync-bridge.ts';
import { type Compute, type ComputeOptions, openCompute } from '../smgr-plugin/compute.ts';
import { installContrib } from '../smgr-plugin/contrib-files.ts';
import { XhrBridge } from './bridge/xhr-bridge.ts';
import { createLog } from './browser-host.ts';
import { fetchContrib, mentionsExtension } from './contrib.ts';
import type { ExtensionBundle } from './page-extensions.ts';
import { serve, transfer } from './worker-rpc.ts';

/** What comes over the port: once. */
export type StartMessage =
  | { readonly start: ComputeStart; readonly bridgeUrl: string | null }
  | { readonly error: unknown };

export interface ComputeOpen {
  readonly readOnly: boolean;
  readonly options: Pick<ComputeOptions, 'artefacts' | 'settings' | 'pageCacheBytes' | 'username' | 'database'>;
  readonly extensions: readonly ExtensionBundle[];
}

export interface ComputeReads {
  readonly cacheHits: number;
  /** Of a compute without shared memory: what it has asked of the server itself. */
  readonly serverPages: number;
  readonly serverBytes: number;
}

/** The answers to some messages: one after another, each so long. */
export interface ExecAnswer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly lengths: readonly number[];
  readonly blob?: Blob;
}

const syncByte = 0x53;
const errorResponseByte = 0x45;
const parameterDescriptionByte = 0x74;
const nothingRead = { pagesRead: 0, bytesRead: 0 };

/** Messages that are run one after another, and what they were answered. */
class Batch {
  readonly #parts: Uint8Array[] = [];
  #blob: Blob | undefined;
  failed = false;

  /** As one: a single part of the answer. */
  async run(...messages: readonly Uint8Array[]): Promise<Uint8Array> {
    const answers: Uint8Array[] = [];
    for (const message of messages) {
      const isSync = message[0] === syncByte;
      if (this.failed && !isSync) continue;
      const answer = opened().execProtocolRawSync(message).slice();
      this.failed ||= !isSync && holdsError(answer);
      answers.push(answer);
      if (isSync) this.#blob = await opened()._getWrittenBlob();
    }
    const part = answers.length === 1 ? answers[0]! : concatBytes(answers);
    this.#parts.push(part);
    return part;
  }

  answer(): ExecAnswer {
    const bytes = concatBytes(this.#parts);
    const lengths = this.#parts.map(({ length }) => length);
    return transfer({ bytes, lengths, ...(this.#blob && { blob: this.#blob }) }, [bytes.buffer]);
  }
}

let compute: Compute | null = null;
let bridge: ComputeBridge | null = null;
/** The page learns them itself, for what it parses; here they are for values. */
let hasArrayTypes = false;
/** Contrib modules: not looked at yet, needed by nothing so far, or there (or not to be had). */
let contrib: 'unknown' | 'unused' | 'settled' = 'unknown';
const log = createLog('compute');
const opened = (): Compute => must(compute, 'the compute is open');

const methods = {
  async open({ readOnly, options, extensions }: ComputeOpen, port: MessagePort): Promise<void> {
    const received = receiveStart(port);
    let bridgeUrl: string | null = null;
    const start = received.then((message) => {
      bridgeUrl = message.bridgeUrl;
      return message.start;
    });
    const openBridge = ({ bridge: memory }: ComputeStart): ComputeBridge => {
      bridge =
        memory === null ? new XhrBridge(must(bridgeUrl, 'the server runs the I/O host')) : new SyncBridge(memory);
      return bridge;
    };
    hasArrayTypes = false;
    contrib = 'unknown';
    compute = await openCompute(
      { readOnly, start },
      { ...options, extensions: extensionsOf(extensions), openBridge, log, lateArrayTypes: true },
    );
  },

  /**
   * Messages of the wire protocol, one after another; after an error up to the next Sync they are passed over, as PostgreSQL does. What a COPY wrote
   * to /dev/blob comes with the Sync that ends it.
   */
  async exec(messages: readonly Uint8Array[]): Promise<ExecAnswer> {
    await needContrib(messages);
    const batch = new Batch();
    for (const message of messages) await batch.run(message);
    return batch.answer();
  },

  /**
   * A whole query in one call: Parse, then with the types that it turns out to want, Bind, Execute and Sync. Answers to Parse; to Describe of the
   * statement; to Bind, Describe and Execute; to Sync. Values that do not fit their types are left to the page to be refused.
   */
  async query(parse: Uint8Array, values: readonly unknown[]): Promise<ExecAnswer> {
    await needContrib([parse]);
    const { serialize } = protocol;
    const batch = new Batch();
    // In a transaction that has failed they cannot be had; the query is refused for the same reason.
    if (!hasArrayTypes && values.some(Array.isArray)) await methods.refreshArrayTypes().catch(() => {});
    await batch.run(parse);
    const described = await batch.run(serialize.describe({ type: 'S' }));
    const bind = batch.failed ? null : bindMessage(described, values);
    await batch.run(...(bind === null ? [] : [bind, serialize.describe({ type: 'P' }), serialize.execute({})]));
    await batch.run(serialize.sync());
    return batch.answer();
  },

  /** Why this compute cannot go on; null as long as it can. */
  failure(): ErrorJson | null {
    return bridge?.failure?.toJSON() ?? null;
  },

  async handleBlob(blob: Blob): Promise<void> {
    await opened()._handleBlob(blob);
  },

  async cleanupBlob(): Promise<void> {
    await opened()._cleanupBlob();
  },

  reads(): ComputeReads {
    const { pagesRead, bytesRead } = bridge instanceof XhrBridge ? bridge : nothingRead;
    return { cacheHits: opened().cacheCounters.hits, serverPages: pagesRead, serverBytes: bytesRead };
  },

  /** After new types were made, and before the first value that is an array. */
  async refreshArrayTypes(): Promise<void> {
    await opened().refreshArrayTypes();
    hasArrayTypes = true;
  },

  async close(): Promise<void> {
    const closing = compute;
    [compute, bridge] = [null, null];
    await closing?.close();
  },
};

export type ComputeMethods = typeof methods;

const extensionsOf = (bundles: readonly ExtensionBundle[]): Extensions =>
  Object.fromEntries(
    bundles.map(({ name, url, ...settings }) => [
      name,
      { name, setup: async () => ({ bundlePath: new URL(url), ...settings }) },
    ]),
  );

/** Puts the contrib modules' files in place if the database has extensions, or one of the messages may make one. */
async function needContrib(messages: readonly Uint8Array[]): Promise<void> {
  if (contrib === 'settled') return;
  if (contrib === 'unknown') {
    contrib = 'unused';
    const { rows } = await opened().query("select 1 from pg_catalog.pg_extension where extname <> 'plpgsql' limit 1");
    if (rows.length === 0 && !messages.some(mentionsExtension)) return;
  } else if (!messages.some(mentionsExtension)) return;
  contrib = 'settled';
  try {
    installContrib(opened(), (await fetchContrib()) ?? []);
  } catch (error) {
    // What needs one is told by PostgreSQL that it is not there.
    contrib = 'unused';
    log.warn('the contrib modules cannot be fetched', { error: messageOf(error) });
  }
}

type Started = Exclude<StartMessage, { error: unknown }>;

function receiveStart(port: MessagePort): Promise<Started> {
  return new Promise((resolve, reject) => {
    port.onmessage = ({ data }: MessageEvent<StartMessage>) => {
      if ('start' in data) resolve(data);
      else reject(PageliteError.fromJSON(data.error));
      port.close();
    };
  });
}

/** Null if there are not as many values as the statement has parameters, or one is not of its type. */
function bindMessage(described: Uint8Array, values: readonly unknown[]): Uint8Array | null {
  const types = parameterTypes(described);
  if (types.length !== values.length) return null;
  const { serializers } = opened();
  try {
    const texts = values.map((value, i) => {
      if (value === null || value === undefined) return null;
      const serializer = serializers[types[i]!];
      return serializer ? serializer(value) : String(value);
    });
    return protocol.serialize.bind({ values: texts });
  } catch {
    return null;
  }
}

/** Of the ParameterDescription: type byte, u32 length, u16 count, then a u32 each. */
function parameterTypes(described: Uint8Array): number[] {
  const view = new DataView(described.buffer, described.byteOffset, described.byteLength);
  if (described[0] !== parameterDescriptionByte) return [];
  return Array.from({ length: view.getUint16(5) }, (_, i) => view.getUint32(7 + i * 4));
}

/** Whether one of the backend's messages is an ErrorResponse: a type byte and a length each. */
function holdsError(answer: Uint8Array): boolean {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
  for (let at = 0; at + 5 <= answer.length; at += 1 + view.getUint32(at + 1)) {
    if (answer[at] === errorResponseByte) return true;
  }
  return false;
}

serve(methods);
