/**
 * The control plane's HTTP API as a page in a browser uses it: branches by name, of one tenant. Served by server/console/, used by browser/.
 *
 * Everything is JSON; LSNs are text (`0/16B5A50`), times RFC 3339, ids hex. An error is `{msg, kind, data}` with the status of its kind, as in
 * the pageserver's HTTP API.
 *
 *   GET    /api/v1/status                          ServerStatus
 *   GET    /api/v1/branches                        ServerBranch[]
 *   POST   /api/v1/branches                        NewServerBranch -> ServerBranch, 201
 *   GET    /api/v1/branches/:name                  ServerBranch
 *   DELETE /api/v1/branches/:name                  {} ; `invalid` while other branches or running endpoints need it
 *   POST   /api/v1/branches/:name/reset            ResetBranch -> ServerBranch: to its parent's head or a point of its history; the old head stays as a branch
 *   GET    /api/v1/branches/:name/history          BranchHistory
 *   GET    /api/v1/branches/:name/lsn?at=TIME      HistoryPoint: the last LSN with everything that was committed until then; or ?lsn=LSN: who has that
 *   GET    /api/v1/branches/:name/layers           LayerSummary
 *   GET    /api/v1/metrics                         MetricSample[] of the pageserver and the safekeepers
 *   POST   /api/v1/branches/:name/rename           {name} -> ServerBranch
 *   PUT    /api/v1/branches/:name                  NameTimeline: gives a timeline that exists (one that was pushed) its name -> ServerBranch
 *
 * Beside it, on the same origin:
 *
 *   WS     /v1/pagestream                          the pageserver's page service, protocol/pagestream.ts
 *   WS     /v1/safekeeper/:id/...                  the safekeeper's services, paths as on the safekeeper itself
 *   *      /v1/tenant/...                          the pageserver's HTTP API
 */

export interface ServerStatus {
  /** Of the npm package. */
  readonly version: string;
  readonly protocols: { readonly pagestream: number; readonly proposerAcceptor: number; readonly walStream: number };
  /** The tenant that the branches are of. */
  readonly tenantId: string;
  readonly safekeepers: readonly { readonly id: number }[];
  /** Of the configuration that these safekeepers are (model/configuration.ts). */
  readonly safekeepersGeneration: number;
}

export interface ServerBranch {
  readonly name: string;
  readonly timelineId: string;
  readonly ancestor: { readonly name: string | null; readonly timelineId: string; readonly lsn: string } | null;
  /** The first LSN of the branch itself. */
  readonly startLsn: string | null;
  /** Up to where it is committed. */
  readonly lsn: string | null;
  /** Up to where the pageserver has ingested. */
  readonly lastRecordLsn: string | null;
  /** Bytes of its own layer files. */
  readonly layerBytes: number | null;
  readonly endpoints: readonly ServerEndpoint[];
  /** Why it does not work, or null. */
  readonly broken: string | null;
}

export interface ServerEndpoint {
  readonly name: string;
  readonly port: number;
  readonly status: 'running' | 'stopped' | 'crashed';
  /** Null: for writing. */
  readonly readOnlyLsn: string | null;
}

export interface NewServerBranch {
  readonly name: string;
  readonly from: string;
  /** Not both; neither: the end of `from`. */
  readonly lsn?: string;
  readonly at?: string;
}

export interface ResetBranch {
  readonly lsn?: string;
  readonly at?: string;
  /** Name that the old head keeps; default `<name>_old_<time>`, as in Neon. */
  readonly preserveAs?: string;
}

export interface NameTimeline {
  readonly timelineId: string;
}

/** What a time slider ranges over: commits of the branch and of its ancestors before its branch point, as far as their WAL is kept. */
export interface BranchHistory {
  readonly start: { readonly lsn: string; readonly at: string | null };
  readonly end: { readonly lsn: string; readonly at: string | null };
  /** Some commits in between, oldest first, spread over time; for a picture of when something happened. */
  readonly commits: readonly { readonly lsn: string; readonly at: string }[];
}

/** A point of a branch's history. Before the branch began, that is an ancestor's: reads as of it go to that timeline. */
export interface HistoryPoint {
  readonly lsn: string;
  /** The branch that has it, or the id of its timeline if that has no name. */
  readonly branch: string;
  readonly timelineId: string;
}

export interface LayerSummary {
  readonly inMemory: readonly { readonly startLsn: string; readonly endLsn: string | null }[];
  readonly files: readonly {
    readonly name: string;
    readonly bytes: number;
    readonly kind: 'delta' | 'image';
    readonly startLsn: string;
    readonly endLsn: string;
  }[];
}

export interface MetricSample {
  readonly node: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}
