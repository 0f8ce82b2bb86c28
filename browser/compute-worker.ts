/**
 * R1, W1. Entry of a compute's worker: one PGlite on one branch. This thread may block in `Atomics.wait` on its pages and its commits, as no page may.
 *
 * Started by connection.ts. `open` gets a port from which the storage worker's ComputeStart comes, so that the basebackup does not pass through the
 * page, and PGlite is loaded meanwhile. Then the page sends messages of PostgreSQL's wire protocol, and parses the answers itself.
 */
import { must } from '../engine/assert.ts';
import { type ErrorJson, PageliteError } from '../engine/errors.ts';
import type { ComputeBridge } from '../smgr-plugin/bridge/compute-bridge.ts';
import type { ComputeStart } from '../smgr-plugin/bridge/io-host.ts';
import { SyncBridge } from '../smgr-plugin/bridge/sync-bridge.ts';
import { type Compute, type ComputeOptions, openCompute } from '../smgr-plugin/compute.ts';
import { XhrBridge } from './bridge/xhr-bridge.ts';
import { createLog } from './browser-host.ts';
import { serve, transfer } from './worker-rpc.ts';

/** What comes over the port: once. */
export type StartMessage =
  | { readonly start: ComputeStart; readonly bridgeUrl: string | null }
  | { readonly error: unknown };

export interface ComputeOpen {
  readonly readOnly: boolean;
  readonly options: Pick<ComputeOptions, 'artefacts' | 'settings' | 'pageCacheBytes' | 'username' | 'database'>;
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
const nothing = new Uint8Array(0);
const nothingRead = { pagesRead: 0, bytesRead: 0 };

let compute: Compute | null = null;
let bridge: ComputeBridge | null = null;
const opened = (): Compute => must(compute, 'the compute is open');

const methods = {
  async open({ readOnly, options }: ComputeOpen, port: MessagePort): Promise<void> {
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
    compute = await openCompute({ readOnly, start }, { ...options, openBridge, log: createLog('compute') });
  },

  /**
   * Messages of the wire protocol, one after another; after an error up to the next Sync they are passed over, as PostgreSQL does. What a COPY wrote
   * to /dev/blob comes with the Sync that ends it.
   */
  async exec(messages: readonly Uint8Array[]): Promise<ExecAnswer> {
    const parts: Uint8Array[] = [];
    let failed = false;
    let blob: Blob | undefined;
    for (const message of messages) {
      const isSync = message[0] === syncByte;
      const skipped: boolean = failed && !isSync;
      const part: Uint8Array = skipped ? nothing : opened().execProtocolRawSync(message).slice();
      failed ||= messages.length > 1 && holdsError(part);
      parts.push(part);
      if (isSync) blob = await opened()._getWrittenBlob();
    }
    const bytes = join(parts);
    const answer = { bytes, lengths: parts.map(({ length }) => length), ...(blob && { blob }) };
    return transfer(answer, [bytes.buffer]);
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

  async close(): Promise<void> {
    await compute?.close();
  },
};

export type ComputeMethods = typeof methods;

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

/** Whether one of the backend's messages is an ErrorResponse: a type byte and a length each. */
function holdsError(answer: Uint8Array): boolean {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
  for (let at = 0; at + 5 <= answer.length; at += 1 + view.getUint32(at + 1)) {
    if (answer[at] === errorResponseByte) return true;
  }
  return false;
}

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

serve(methods);
