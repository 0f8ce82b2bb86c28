/**
 * Asks safekeepers what they have, for all timelines of a pageserver: the few that are asked for at a time are asked for one by one, and when many are at once,
 * as those that nobody writes to are again and again, one question about all of the safekeeper's timelines answers them together.
 *
 * Invariants
 * - an answer is what the safekeeper had after it was asked for
 * - at most `asksAtOnceMax` questions are under way at a safekeeper
 */
import { type TenantTimelineId, timelineKey } from '../model/ids.ts';
import type { PeerTimelineInfo, SafekeeperTimelineStatus, WalService } from '../services.ts';

export type WalExtent = Pick<SafekeeperTimelineStatus, 'startLsn' | 'commitLsn'>;

/** A safekeeper that can be asked about all of its timelines. */
export interface SurveyedService extends WalService {
  describeTimelines?(): Promise<readonly PeerTimelineInfo[]>;
}

const asksAtOnceMax = 4;

interface Question {
  readonly id: TenantTimelineId;
  resolve(extent: WalExtent | null): void;
  reject(error: unknown): void;
}

export class SafekeeperSurvey {
  readonly #desks = new Map<WalService, Desk>();

  /** Null if the safekeeper does not know the timeline. Rejects as `getStatus` does; what is damaged there may be null, too. */
  statusOf(service: SurveyedService, id: TenantTimelineId): Promise<WalExtent | null> {
    const desk = this.#desks.get(service) ?? new Desk(service);
    this.#desks.set(service, desk);
    return desk.ask(id);
  }
}

/** Questions to one safekeeper. */
class Desk {
  readonly #service: SurveyedService;
  #waiting: Question[] = [];
  #underWay = 0;

  constructor(service: SurveyedService) {
    this.#service = service;
  }

  ask(id: TenantTimelineId): Promise<WalExtent | null> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ id, resolve, reject });
      this.#serve();
    });
  }

  #serve(): void {
    const room = asksAtOnceMax - this.#underWay;
    if (room <= 0 || this.#waiting.length === 0) return;
    const questions = this.#waiting;
    this.#waiting = [];
    if (questions.length <= room || this.#service.describeTimelines === undefined) {
      for (const question of questions) this.#whileUnderWay(this.#askOne(question));
    } else this.#whileUnderWay(this.#askAll(questions));
  }

  /** Does not reject. */
  #whileUnderWay(asking: Promise<void>): void {
    this.#underWay++;
    void asking.then(() => {
      this.#underWay--;
      this.#serve();
    });
  }

  #askOne({ id, resolve, reject }: Question): Promise<void> {
    return this.#service.getStatus(id).then(resolve, reject);
  }

  async #askAll(questions: readonly Question[]): Promise<void> {
    try {
      const all = await this.#service.describeTimelines!();
      const known = new Map(all.map((info) => [timelineKey(info.id), info]));
      for (const { id, resolve } of questions) resolve(known.get(timelineKey(id)) ?? null);
    } catch (error) {
      for (const { reject } of questions) reject(error);
    }
  }
}
