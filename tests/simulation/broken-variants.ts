/**
 * Safekeepers and proposers with one mistake each, as somebody could make it: the simulation has to find every one. An edit replaces text that the
 * source has exactly once.
 */
export interface BrokenVariant {
  readonly name: string;
  readonly edits: readonly { readonly file: string; readonly find: string; readonly replace: string }[];
}

const acceptor = 'engine/safekeeper/acceptor.ts';
const timeline = 'engine/safekeeper/timeline.ts';
const walLog = 'engine/safekeeper/wal-log.ts';
const safekeeper = 'engine/safekeeper/safekeeper.ts';
const readmission = 'engine/safekeeper/readmission.ts';
const removal = 'engine/safekeeper/wal-removal.ts';
const quorum = 'engine/model/quorum.ts';
const proposer = 'smgr-plugin/wal/wal-proposer.ts';

export const brokenVariants: readonly BrokenVariant[] = [
  {
    name: 'acknowledges WAL before it is synchronised',
    edits: [
      { file: timeline, find: 'if (!this.#wal.isDirty) return undefined;', replace: 'if (this.id) return undefined;' },
    ],
  },
  {
    name: 'votes before the term is on disk',
    edits: [
      {
        file: acceptor,
        find: 'persist.push(this.#setControl({ term: message.term, ruler: message.proposerId }));',
        replace: 'this.#setControl({ term: message.term, ruler: message.proposerId });',
      },
    ],
  },
  {
    name: 'votes for two in a term',
    edits: [
      {
        file: acceptor,
        find: 'term === message.term && ruler === message.proposerId;',
        replace: 'term === message.term;',
      },
    ],
  },
  {
    name: 'commits WAL of an older term as soon as it is elected',
    edits: [
      { file: proposer, find: 'this.#commitLsn = vote.commitLsn;', replace: 'this.#commitLsn = this.#startLsn;' },
    ],
  },
  {
    name: 'goes by the longest log, not by the newest term',
    edits: [
      {
        file: proposer,
        find: 'lastTerm(vote.termHistory) - lastTerm(other.termHistory) || vote.flushLsn - other.flushLsn',
        replace: 'vote.flushLsn - other.flushLsn',
      },
    ],
  },
  {
    name: 'is elected by half',
    edits: [
      { file: quorum, find: 'Math.floor(memberCount / 2) + 1', replace: 'Math.ceil(memberCount / 2 - 0.5) || 1' },
    ],
  },
  {
    name: 'commits what the fastest has',
    edits: [{ file: quorum, find: 'counted[quorumOf(flushLsns.length) - 1]', replace: 'counted[0]' }],
  },
  {
    name: 'takes WAL of a term that is over',
    edits: [
      {
        file: acceptor,
        find: 'if (message.term < term) return this.#answer([], this.#appendResponse(',
        replace: 'if (message.term < 0) return this.#answer([], this.#appendResponse(',
      },
      {
        file: acceptor,
        find: 'message.term > term || session.electedTerm !== term',
        replace: 'session.electedTerm !== message.term',
      },
      {
        file: acceptor,
        find: "const { term, ruler } = this.#control;\n    return { kind: 'appendResponse', term,",
        replace: "const { ruler } = this.#control;\n    return { kind: 'appendResponse', term: 1 as Term,",
      },
    ],
  },
  {
    name: 'keeps a diverged end of the log',
    edits: [
      {
        file: acceptor,
        find: 'if (this.writeLsn !== startStreamingAt) {',
        replace: 'if (this.writeLsn < startStreamingAt) {',
      },
      {
        file: proposer,
        find: 'view.nextLsn = startLsn;',
        replace: 'view.nextLsn = (flushLsn > startLsn ? flushLsn : startLsn) as Lsn;',
      },
    ],
  },
  {
    name: 'forgets the history of terms',
    edits: [
      {
        file: acceptor,
        find: '          termHistory,\n          ...(isFirst',
        replace: '          termHistory: termHistory.slice(0, 1),\n          ...(isFirst',
      },
    ],
  },
  {
    name: 'counts on what an earlier process had only written',
    edits: [{ file: walLog, find: 'await this.#syncTail(knownLsn, lsnEnd);', replace: '' }],
  },
  {
    name: 'commits what it does not have',
    edits: [{ file: acceptor, find: 'Math.min(message.commitLsn, this.flushLsn)', replace: 'message.commitLsn' }],
  },
  {
    name: 'keeps its own end of the log under the history of a peer',
    edits: [
      { file: acceptor, find: 'if (isFirst || this.writeLsn !== common) persist', replace: 'if (isFirst) persist' },
      {
        file: acceptor,
        find: 'if (this.writeLsn !== common) this.#scanFrom(common);',
        replace: 'if (this.writeLsn < common) this.#scanFrom(common);',
      },
    ],
  },
  {
    name: 'gives up WAL that only it has',
    edits: [
      {
        file: removal,
        find: 'backupLsn === null ? horizon : Math.min(horizon, backupLsn - 1)',
        replace: 'horizon',
      },
      {
        file: removal,
        find: 'backupLsn === null || segmentStart(boundary)',
        replace: 'boundary > 0 || segmentStart(boundary)',
      },
    ],
  },
  {
    name: 'answers with a disk that was put back before it has heard its peers',
    edits: [{ file: safekeeper, find: 'await this.#gate?.admit(greeting.timeline);', replace: '' }],
  },
  {
    name: 'answers when it has heard its peers, without what they have',
    edits: [{ file: readmission, find: 'if (donor === null) return true;', replace: 'if (timeline) return true;' }],
  },
  {
    name: 'answers proposers who know only members of before',
    edits: [
      {
        file: acceptor,
        find: 'if (configuration.generation < own.generation) return outdatedError(texts, data);',
        replace: 'if (configuration.generation < own.generation) return null;',
      },
      { file: timeline, find: 'target.session.generation >= generation) continue;', replace: 'true) continue;' },
    ],
  },
  {
    name: 'forgets with its disk that there are other members now',
    edits: [{ file: readmission, find: 'await timeline.learnConfiguration(newestConfiguration(had));', replace: '' }],
  },
  {
    name: 'counts what a safekeeper said before its disk was put back',
    edits: [
      {
        file: proposer,
        find: 'this.#beginsAnew(view, message.incarnation);',
        replace: 'view.incarnation = message.incarnation;',
      },
      { file: proposer, find: 'incarnation <= view.incarnation) continue;', replace: 'incarnation > 0) continue;' },
    ],
  },
];
