/**
 * A Pagelite server as a tab uses it: its control plane's API (protocol/control-api.ts) over `fetch`, and its page service and safekeepers over
 * WebSockets of the same origin.
 *
 * Used by the page (pagelite.ts) for branches by name, and by the storage worker for what a compute needs.
 *
 * Invariants
 * - nothing is asked of a server whose protocols differ: the first call finds out, and says what to do
 * - what a server answers that is not of the API's form is `unavailable`, with the text that came
 */
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { nodeId, type TenantTimelineId } from '../../engine/model/ids.ts';
import type {
  BranchHistory,
  HistoryPoint,
  LayerSummary,
  MetricSample,
  NewServerBranch,
  ResetBranch,
  ServerBranch,
  ServerStatus,
} from '../../engine/protocol/control-api.ts';
import { pagestreamVersion } from '../../engine/protocol/pagestream.ts';
import { proposerAcceptorVersion, walStreamVersion } from '../../engine/protocol/version.ts';
import { RemotePageService } from '../../engine/remote/remote-page-service.ts';
import { RemoteWalService } from '../../engine/remote/remote-wal-service.ts';
import type { Clock, Log, Random, WalService } from '../../engine/services.ts';
import { connectWebSocket, type TrafficCounter } from './ws-channel.ts';

/** An answer of the API comes at once or not at all; a server that hangs must not hang the page. */
const answerTimeoutMs = 20_000;

export class ServerClient {
  /** Without a slash at its end. */
  readonly url: string;
  #status: Promise<ServerStatus> | null = null;

  constructor(url: string) {
    this.url = new URL(url, globalThis.location?.href).href.replace(/\/+$/, '');
  }

  /** Rejects `invalid` if the server speaks other versions of the protocols. Asked once; again after a failure. */
  status(): Promise<ServerStatus> {
    if (this.#status === null) {
      const asked = this.#getStatus();
      asked.catch(() => {
        this.#status = null;
      });
      this.#status = asked;
    }
    return this.#status;
  }

  /** The same, as it is now: safekeepers may have been replaced. */
  statusNow(): Promise<ServerStatus> {
    this.#status = null;
    return this.status();
  }

  async branches(): Promise<ServerBranch[]> {
    return this.#call('GET', '/api/v1/branches');
  }

  async branch(name: string): Promise<ServerBranch> {
    return this.#call('GET', branchPath(name));
  }

  async createBranch(branch: NewServerBranch): Promise<ServerBranch> {
    return this.#call('POST', '/api/v1/branches', branch);
  }

  async resetBranch(name: string, to: ResetBranch): Promise<ServerBranch> {
    return this.#call('POST', `${branchPath(name)}/reset`, to);
  }

  async deleteBranch(name: string): Promise<void> {
    await this.#call('DELETE', branchPath(name));
  }

  /** Gives a timeline that was pushed its name. */
  async nameTimeline(name: string, timelineId: string): Promise<ServerBranch> {
    return this.#call('PUT', branchPath(name), { timelineId });
  }

  async history(name: string): Promise<BranchHistory> {
    return this.#call('GET', `${branchPath(name)}/history`);
  }

  /** A point of a branch's history, and the timeline that has it: before the branch began, that is an ancestor's. */
  async point(name: string, at: { readonly lsn: string } | { readonly at: Date }): Promise<HistoryPoint> {
    const query = new URLSearchParams('lsn' in at ? { lsn: at.lsn } : { at: at.at.toISOString() });
    return this.#call('GET', `${branchPath(name)}/lsn?${query}`);
  }

  async layers(name: string): Promise<LayerSummary> {
    return this.#call('GET', `${branchPath(name)}/layers`);
  }

  async metrics(): Promise<MetricSample[]> {
    return this.#call('GET', '/api/v1/metrics');
  }

  /** The page service of one timeline. To be closed by who opened it. */
  openPages(
    id: TenantTimelineId,
    host: { readonly clock: Clock; readonly random: Random; readonly log: Log },
    traffic?: TrafficCounter,
  ): RemotePageService {
    return new RemotePageService({ id, ...host, connect: () => connectWebSocket(this.#ws('/v1/pagestream'), traffic) });
  }

  openSafekeepers(status: ServerStatus): WalService[] {
    return status.safekeepers.map(
      ({ id }) =>
        new RemoteWalService({
          nodeId: nodeId(id),
          connect: (endpoint) => connectWebSocket(this.#ws(`/v1/safekeeper/${id}/${endpoint}`)),
        }),
    );
  }

  async #getStatus(): Promise<ServerStatus> {
    const status = await this.#fetch<ServerStatus>('GET', '/api/v1/status');
    const ours = {
      pagestream: pagestreamVersion,
      proposerAcceptor: proposerAcceptorVersion,
      walStream: walStreamVersion,
    };
    for (const [protocol, version] of Object.entries(ours)) {
      const theirs = status.protocols?.[protocol as keyof typeof ours];
      if (theirs === version) continue;
      const newer = typeof theirs === 'number' && theirs > version;
      const hint = newer ? 'Reload the page, or update Pagelite in it' : 'Update the server';
      const what = `the server ${this.url} is version ${status.version ?? 'unknown'} and speaks ${protocol} ${theirs ?? 'of no version'}`;
      throw new PageliteError('invalid', `${what}, this page speaks ${version}. ${hint}`, {
        server: this.url,
        protocol,
        theirs,
        ours: version,
      });
    }
    return status;
  }

  async #call<T>(method: string, path: string, body?: object): Promise<T> {
    await this.status();
    return this.#fetch(method, path, body);
  }

  async #fetch<T>(method: string, path: string, body?: object): Promise<T> {
    const url = this.url + path;
    let response: Response;
    let text: string;
    try {
      const init =
        body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
      response = await fetch(url, { method, ...init, signal: AbortSignal.timeout(answerTimeoutMs) });
      text = await response.text();
    } catch (cause) {
      const hint = 'Is it running, and does it allow this origin?';
      throw new PageliteError('unavailable', `no answer from ${url}: ${messageOf(cause)}. ${hint}`, { url }, { cause });
    }
    const json = parse(text);
    if (response.ok && json !== undefined) return json as T;
    const { msg, kind, data } = (json ?? {}) as { msg?: unknown; kind?: unknown; data?: unknown };
    if (typeof msg === 'string') throw PageliteError.fromJSON({ kind: kind ?? 'unavailable', message: msg, data });
    const status = response.status;
    throw new PageliteError('unavailable', `${url} answered ${status}: ${text.slice(0, 200)}`, { url, status });
  }

  #ws(path: string): string {
    return this.url.replace(/^http/, 'ws') + path;
  }
}

const branchPath = (name: string): string => `/api/v1/branches/${encodeURIComponent(name)}`;

function parse(text: string): unknown {
  try {
    return text === '' ? {} : JSON.parse(text);
  } catch {
    return undefined;
  }
}
