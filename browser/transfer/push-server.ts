/**
 * The server that branches are pushed to: its pageserver takes the layers, its control plane (engine/protocol/control-api.ts) knows the names.
 */
import { isPageliteError } from '../../engine/errors.ts';
import { type TenantId, type TimelineId, timelineId } from '../../engine/model/ids.ts';
import { HttpImportPeer } from '../../engine/transfer/http-import-peer.ts';
import type { ImportPeer } from '../../engine/transfer/push-timeline.ts';
import { HttpJson, type HttpJsonOptions } from './http-json.ts';

export interface PushServer {
  /** The tenant that its branches are of. */
  readonly tenantId: TenantId;
  readonly peer: ImportPeer;
  /** The timeline that the name means, null if it is free. */
  timelineNamed(name: string, signal?: AbortSignal): Promise<TimelineId | null>;
  /** Gives a timeline its name. Again: succeeds. */
  nameTimeline(name: string, timeline: TimelineId, signal?: AbortSignal): Promise<void>;
}

export class HttpPushServer implements PushServer {
  readonly tenantId: TenantId;
  readonly peer: ImportPeer;
  readonly #api: HttpJson;

  constructor(tenantId: TenantId, options: HttpJsonOptions) {
    this.tenantId = tenantId;
    this.#api = new HttpJson(options);
    this.peer = new HttpImportPeer(this.#api);
  }

  async timelineNamed(name: string, signal?: AbortSignal): Promise<TimelineId | null> {
    let answer: object;
    try {
      answer = await this.#api.call('GET', branchPath(name), null, signal);
    } catch (error) {
      if (isPageliteError(error, 'notFound')) return null;
      throw error;
    }
    const { timelineId: id } = answer as { timelineId?: unknown };
    if (typeof id !== 'string') throw this.#api.unexpected(answer);
    return timelineId(id);
  }

  async nameTimeline(name: string, timeline: TimelineId, signal?: AbortSignal): Promise<void> {
    await this.#api.call('PUT', branchPath(name), JSON.stringify({ timelineId: timeline }), signal);
  }
}

const branchPath = (name: string) => `/api/v1/branches/${encodeURIComponent(name)}`;
