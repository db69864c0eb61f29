// Words of the pages for an administrator: [English, Korean].

export const MORE_WORDS = {
};
